"""`nora-ecot inspect --flow`: what it writes of finished stages, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.choices import Subset
from configs.schema import ActionConfig, ConfigError, FlowConfig
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.flow_tokens import save_flow_tokens
from data_pipeline.raw_loader import Hdf5Source
from experiment.cli import main
from experiment.inspecting_flow import find_made, write_flow_page
from flow_pipeline.flow_field import save_flow
from flow_pipeline.vq_encoder import TOKENIZER_FILE, save_tokenizer
from tests.helpers.flows import GRID, K, moving_hand, tokens_of
from tests.helpers.synthetic import write_synthetic_subset

STEPS = 30
FLOW_MANIFEST = {"backend": "sim", "k": K, "unit": "pixels of a 256 x 256 image", "cells": 32}
MANIFEST = {"backend": "sim", "camera": "agentview", "frame": "rot180", "tokenizer": GRID.definition}


@pytest.fixture
def finished(tmp_path: Path) -> Any:
    """What the store of a finished study holds, as far as this command reads it."""
    store = tmp_path / "outputs" / ".store"
    folders = {stage: store / stage / "key" for stage in ("regenerate", "flow", "tokens")}
    for stage in ("flow", "tokens"):
        folders[stage].mkdir(parents=True)
    source = Hdf5Source(write_synthetic_subset(folders["regenerate"], Subset.OBJECT, demos=2), Subset.OBJECT)
    flows = {episode: moving_hand(STEPS) for episode in source.list()}
    tokens = {episode: tokens_of(episode, flow) for episode, flow in flows.items()}
    source.close()
    save_flow(folders["flow"] / "flow.npz", flows, FLOW_MANIFEST)
    save_flow_tokens(folders["tokens"] / "flow_tokens.json", tokens, MANIFEST)
    save_tokenizer(folders["tokens"] / TOKENIZER_FILE, GRID.definition, {})
    nodes = {stage: SimpleNamespace(stage=stage, key="key", label=f"{stage} object") for stage in folders}
    return SimpleNamespace(
        places=SimpleNamespace(store=store),
        config=SimpleNamespace(flow=FlowConfig(cells=8), action=ActionConfig(horizon=K, execute=K)),
        regenerate=lambda _: nodes["regenerate"],
        flow=lambda _: nodes["flow"],
        tokens=lambda _: nodes["tokens"],
        made=tokens,
    )


def test_a_page_with_a_film_per_task_twice_the_same(finished: Any, tmp_path: Path, capsys: Any) -> None:
    for name in ("a", "b"):
        write_flow_page(find_made(finished, Subset.OBJECT, None), Subset.OBJECT, tmp_path / name, 1)
    said = capsys.readouterr().out
    assert "object: 4 demonstrations of 2 tasks, 120 steps; from each step to 4 steps later, sim" in said
    assert "2 films beside it" in said
    made = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(made) == ["flow_object.html", "flow_object_00_000.mp4", "flow_object_01_000.mp4"]
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    page = made["flow_object.html"].decode()
    assert all(f'src="{name}"' in page for name in made if name.endswith(".mp4"))
    assert GRID.digest in page
    assert "4 control steps (action.horizon)" in page
    assert page.count('<div class="step">') == 10


def test_without_films_the_pictures_are_there(finished: Any, tmp_path: Path) -> None:
    write_flow_page(find_made(finished, Subset.OBJECT, None), Subset.OBJECT, tmp_path / "a", 0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["flow_object.html"]
    assert "<video" not in (tmp_path / "a" / "flow_object.html").read_text()


def test_a_file_by_path(finished: Any, tmp_path: Path, capsys: Any) -> None:
    some = dict(list(finished.made.items())[:2])
    save_flow_tokens(tmp_path / "mine.json", some, MANIFEST)
    write_flow_page(find_made(finished, Subset.OBJECT, tmp_path / "mine.json"), Subset.OBJECT, tmp_path / "a", 0)
    assert "object: 2 demonstrations of 1 task, 60 steps" in capsys.readouterr().out
    assert "mine.json" in (tmp_path / "a" / "flow_object.html").read_text()


def test_tokens_of_another_subset_horizon_or_tokenizer_are_refused(finished: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"

    def refused(tokens: dict[Any, Any]) -> str:
        save_flow_tokens(path, tokens, MANIFEST)
        with pytest.raises(ConfigError) as problem:
            write_flow_page(find_made(finished, Subset.OBJECT, path), Subset.OBJECT, tmp_path / "a", 0)
        return str(problem.value)

    moved = {replace(e, subset=Subset.GOAL): t for e, t in finished.made.items()}
    assert "no flow tokens of object here" in refused(moved)
    assert "the flow of this study does not have" in refused(
        {replace(e, demo=7): t for e, t in finished.made.items() if e.demo == 0}
    )
    longer = {e: replace(t, k=8, k_effective=t.k_effective * 2) for e, t in finished.made.items()}
    assert "k=8; the flow of this study: 30 steps, k=4" in refused(longer)
    other = {e: replace(t, tokenizer_digest="other") for e, t in finished.made.items()}
    assert f"flow tokens of tokenizer other, this study has {GRID.digest[:16]}" in refused(other)
    assert not (tmp_path / "a").exists()
    with pytest.raises(EnvironmentProblem, match="does not exist"):
        find_made(finished, Subset.OBJECT, tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--flow", "--data", "x"], "leave --data out"),
        (["--flow"], "--subset NAME or --all-subsets"),
        (["--flow", "--annotations", "--subset", "object"], "not both"),
        (["--flow", "--subset", "object", "--demos", "-1"], "--demos=-1 is out of range"),
        (["--flow", "--all-subsets", "--flow_tokens", "x.json"], "a file of one subset"),
        (["--subset", "object", "--flow_tokens", "x.json"], "shown by --flow"),
    ],
)
def test_what_does_not_go_together(argv: list[str], message: str, capsys: Any) -> None:
    assert main("inspect", argv) == 2
    assert message in capsys.readouterr().err
