"""`nora-ecot inspect --flow`: what it writes of finished stages, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from configs.data import EnvConfig
from configs.slices import FlowSlice, GridSlice, SplitSlice, TokensSlice
from data_pipeline.flow_tokens import FLOW_TOKENS_JSON, made_of, save_flow_tokens
from data_pipeline.raw_loader import Hdf5Source
from experiment.cli import main
from experiment.inspecting_flow import find_made, write_flow_page
from experiment.stages import make_node
from experiment.store import Store
from flow_pipeline.flow_field import save_flow
from flow_pipeline.vq_encoder import TOKENIZER_FILE, save_tokenizer
from tests.helpers.flows import GRID, K, moving_hand, tokens_of
from tests.helpers.synthetic import write_synthetic_subset

STEPS = 30
FLOW_MANIFEST = {"backend": "sim", "k": K, "unit": "pixels of a 256 x 256 image", "cells": 32}


@pytest.fixture
def finished(tmp_path: Path) -> Any:
    """What the store of a finished study holds, as far as this command reads it."""
    store = Store(tmp_path / "outputs" / ".store")
    flow = make_node("flow", "object", FlowSlice(Subset.OBJECT, "sim", K, EnvConfig()), {})
    grid = GridSlice(GRID.cells, GRID.levels, GRID.static_px)
    tokens = make_node("tokens", "object", TokensSlice(Subset.OBJECT, grid), {"flow": flow})
    demos = make_node("split", "object", SplitSlice(Subset.OBJECT, 0.1, 0), {})  # any node: of it, the place alone
    places = [store.entry(node.stage, node.key) for node in (demos, flow, tokens)]
    for place in places[1:]:
        place.mkdir(parents=True)
    source = Hdf5Source(write_synthetic_subset(places[0], Subset.OBJECT, demos=2), Subset.OBJECT)
    flows = {episode: moving_hand(STEPS) for episode in source.list()}
    made = {episode: tokens_of(episode, flow) for episode, flow in flows.items()}
    manifest = {"backend": "sim", "tokenizer": GRID.definition, **made_of(map(source.open, source.list()))}
    source.close()
    save_flow(places[1] / "flow.npz", flows, FLOW_MANIFEST)
    save_flow_tokens(places[2] / FLOW_TOKENS_JSON, made, manifest)
    save_tokenizer(places[2] / TOKENIZER_FILE, GRID.definition, {})
    return SimpleNamespace(
        places=SimpleNamespace(store=store.root),
        regenerate=lambda _: demos,
        flow=lambda _: flow,
        tokens=lambda _: tokens,
        made=made,
        manifest=manifest,
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
    save_flow_tokens(tmp_path / "mine.json", finished.made, finished.manifest)
    write_flow_page(find_made(finished, Subset.OBJECT, tmp_path / "mine.json"), Subset.OBJECT, tmp_path / "a", 0)
    assert "object: 4 demonstrations of 2 tasks, 120 steps" in capsys.readouterr().out
    assert "mine.json" in (tmp_path / "a" / "flow_object.html").read_text()


def test_tokens_of_another_horizon_tokenizer_or_other_demonstrations_are_refused(finished: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"

    def refused(tokens: dict[Any, Any], **changes: Any) -> str:
        save_flow_tokens(path, tokens, finished.manifest | changes)
        with pytest.raises(ConfigError) as problem:
            find_made(finished, Subset.OBJECT, path)
        return str(problem.value)

    longer = {e: replace(t, k=8, k_effective=t.k_effective * 2) for e, t in finished.made.items()}
    assert "k is 8, and this run needs 4" in refused(longer)
    other = {**GRID.definition, "levels": 9}
    assert "tokenizer.levels is 9, and this run needs 17" in refused(finished.made, tokenizer=other)
    assert "demos.digest is 'other'" in refused(finished.made, demos={**finished.manifest["demos"], "digest": "other"})
    with pytest.raises(ConfigError, match="does not exist"):
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
