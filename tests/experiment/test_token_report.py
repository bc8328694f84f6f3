"""Flow tokens are reported where they were made, and a subset that is served worse is named."""

from __future__ import annotations

from typing import Any

from experiment.stages import StageNode, make_node
from experiment.store import Manifest
from experiment.token_report import token_lines

FIGURES: dict[str, Any] = {
    "demonstrations": "all",
    "epe_all": 0.5,
    "epe_moving": 3.0,
    "epe_moving_zero": 12.0,
    "bits_per_frame": 120.0,
    "active_cells": 11.5,
    "utilisation": 0.4,
}


def finished(node: StageNode, quality: Any) -> Manifest:
    return Manifest(
        stage=node.stage,
        slug=node.spec.slug,
        key=node.key,
        version=1,
        config={},
        inputs={},
        provenance={},
        files={},
        output="",
        seconds=1.0,
        remarks={"quality": quality} if quality else {},
    )


def test_what_ran_is_told_and_compared_with_what_is_there() -> None:
    subsets = ("object", "goal", "long")
    nodes = {s: make_node("tokens", s, {"subset": s}, {}) for s in subsets}
    worse = FIGURES | {"epe_moving": 7.0}
    manifests = {n.key: finished(n, worse if s == "goal" else FIGURES) for s, n in nodes.items()}
    (said,) = token_lines([nodes["object"]], {nodes["object"].key: manifests[nodes["object"].key]})
    assert said.startswith(
        "flow tokens of object, on all demonstrations: end-point error 3.00 px where something moves"
    )
    assert "(no motion: 12.00)" in said
    assert "120 bits and 11.5 active cells per frame; 40% of the codes occur" in said
    told, alarm = token_lines([nodes["object"]], manifests)
    assert told == said
    assert "goal lose 58%" in alarm
    assert not token_lines([], manifests), "nothing was made"


def test_one_subset_is_compared_with_what_the_codebook_says_of_the_others() -> None:
    tokens, codebook = make_node("tokens", "goal", {}, {}), make_node("codebook", "", {}, {})
    fitted = {"object": FIGURES, "long": FIGURES, "goal": FIGURES}
    manifests = {tokens.key: finished(tokens, FIGURES | {"epe_moving": 9.0}), codebook.key: finished(codebook, fitted)}
    assert "goal lose 75%" in token_lines([tokens], manifests)[1]
    fitted["long"] = FIGURES | {"epe_moving": 9.0, "demonstrations": "training"}
    manifests[tokens.key] = finished(tokens, FIGURES)
    assert "long lose 75% of the motion (training demonstrations)" in token_lines([tokens], manifests)[1]


def test_tokens_without_figures_have_no_line() -> None:
    tokens = make_node("tokens", "goal", {}, {})
    assert not token_lines([tokens], {tokens.key: finished(tokens, None)})
