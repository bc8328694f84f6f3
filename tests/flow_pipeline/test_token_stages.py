"""The stages `codebook` and `tokens`: what they write, what it says of itself, and what they never look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.choices import Subset
from configs.data import CodebookConfig
from configs.slices import CodebookSlice, GridSlice, TokensSlice
from data_pipeline.contract import EpisodeId, Interrupted, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.flow_tokens import (
    FLOW_TOKENS_JSON,
    FLOW_TOKENS_NPZ,
    load_flow_manifest,
    load_flow_tokens,
)
from data_pipeline.raw_loader import Hdf5Source
from experiment.given_flow import FLOW_TOKENS
from flow_pipeline.codebook import CODEBOOK_FILE, run_codebook
from flow_pipeline.flow_field import EpisodeFlow, k_effective, save_flow
from flow_pipeline.token_quality import alarms, quality_line
from flow_pipeline.vq_encoder import TOKENIZER_FILE, load_tokenizer, run_tokens
from tests.helpers.synthetic import write_split_and_stats, write_synthetic_subset

K, STEPS = 4, 10
GRID = TokensSlice(Subset.OBJECT, GridSlice(4, 5, 0.75))
FITTED = CodebookSlice(
    8, 0.75, CodebookConfig((Subset.OBJECT,), levels=(4, 4), width=8, blocks=1, steps=6, batch_size=4)
)


def flows(episodes: list[EpisodeId], seed: int = 0) -> dict[EpisodeId, EpisodeFlow]:
    """The upper left quarter moves, by another vector in each episode."""
    rng = np.random.default_rng(seed)
    made: dict[EpisodeId, EpisodeFlow] = {}
    for episode in episodes:
        flow = np.zeros((STEPS, 32, 32, 2), np.float16)
        flow[:, :8, :8] = rng.uniform(2, 30, 2)
        made[episode] = EpisodeFlow(flow, k_effective(STEPS, K))
    return made


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Finished stages of the subset object."""
    data = write_synthetic_subset(tmp_path / "data", Subset.OBJECT, steps=STEPS)
    write_split_and_stats(data, tmp_path / "split", Subset.OBJECT)
    (tmp_path / "flow").mkdir()
    write_flow(tmp_path / "flow", flows(Hdf5Source(data, Subset.OBJECT).list()))
    return {"regenerate": data, "flow": tmp_path / "flow", "split": tmp_path / "split"}


def write_flow(folder: Path, episodes: Mapping[EpisodeId, EpisodeFlow]) -> None:
    save_flow(folder / "flow.npz", episodes, {"backend": "sim", "k": K, "camera": "agentview", "frame": "rot180"})


def codebook(inputs: Mapping[str, Path], work: Path) -> Path:
    """Run the stage; returns its output."""
    work.mkdir()
    context = StageContext(work, {f"{name}/object": inputs[name] for name in ("flow", "split")})
    assert run_codebook(FITTED, context) == [TOKENIZER_FILE, CODEBOOK_FILE]
    return work


def test_tokens_of_a_grid_say_what_they_were_made_of_and_what_they_lose(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    assert tuple(run_tokens(GRID, StageContext(work, inputs))) == FLOW_TOKENS
    tokens = load_flow_tokens(work / FLOW_TOKENS_JSON)
    assert list(tokens) == Hdf5Source(inputs["regenerate"], Subset.OBJECT).list()
    first = next(iter(tokens.values()))
    assert (first.num_codes, first.k, first.codes.shape) == (26, K, (STEPS, 16))
    assert (first.codes[:, 0] > 0).all()
    assert not first.codes[:, 1:].any()
    loaded = load_tokenizer(work / TOKENIZER_FILE)
    assert loaded.digest == first.tokenizer_digest
    manifest = load_flow_manifest(work / FLOW_TOKENS_NPZ)
    assert manifest == load_flow_manifest(work / FLOW_TOKENS_JSON)
    assert (manifest["frame"], manifest["camera"], manifest["backend"]) == ("rot180", "agentview", "sim")
    assert manifest["demos"]["steps"] == STEPS * manifest["demos"]["episodes"] == STEPS * len(tokens)
    assert manifest["tokenizer"] == loaded.definition
    figures = manifest["quality"]
    assert figures["demonstrations"] == "all"
    assert figures["epe_moving"] < figures["epe_moving_zero"]
    assert figures["active_cells"] == 1
    assert figures["static_share"] == round(15 / 16, 3)


def test_a_codebook_is_fitted_on_training_demonstrations_alone_and_tokenizes(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    first = codebook(inputs, tmp_path / "first")
    tokenizer = load_tokenizer(first / TOKENIZER_FILE)
    assert tokenizer.num_codes == 17
    held_out = load_split(inputs["split"] / SPLIT_FILE).test
    assert held_out
    changed = flows(Hdf5Source(inputs["regenerate"], Subset.OBJECT).list())
    for episode in held_out:
        changed[episode] = EpisodeFlow(-changed[episode].flow, changed[episode].k_effective)
    write_flow(inputs["flow"], changed)
    again = codebook(inputs, tmp_path / "again")
    assert (again / TOKENIZER_FILE).read_bytes() == (first / TOKENIZER_FILE).read_bytes()
    work = tmp_path / "work"
    work.mkdir()
    run_tokens(TokensSlice(Subset.OBJECT), StageContext(work, {**inputs, "codebook": first}))
    tokens = load_flow_tokens(work / FLOW_TOKENS_NPZ)
    assert {t.tokenizer_digest for t in tokens.values()} == {tokenizer.digest}
    assert all(t.codes.shape == (STEPS, 64) and (t.codes > 0).sum() == 4 * STEPS for t in tokens.values())


@pytest.mark.parametrize(("test_fraction", "of"), [(0.05, "held-out"), (0.0, "training")])
def test_a_codebook_says_which_demonstrations_its_figures_are_of(
    inputs: dict[str, Path], tmp_path: Path, test_fraction: float, of: str
) -> None:
    write_split_and_stats(inputs["regenerate"], inputs["split"], Subset.OBJECT, test_fraction=test_fraction)
    found = json.loads((codebook(inputs, tmp_path / "work") / CODEBOOK_FILE).read_text())["quality"]["object"]
    assert found["demonstrations"] == of
    assert f"object, on {of} demonstrations: end-point error" in quality_line("object", found)


def test_a_fit_stops_where_it_is_asked_to(inputs: dict[str, Path], tmp_path: Path) -> None:
    context = StageContext(tmp_path, {f"{name}/object": inputs[name] for name in ("flow", "split")})
    with pytest.raises(Interrupted):
        run_codebook(FITTED, replace(context, stop_requested=lambda: True))


def test_the_alarm_names_the_subset_that_loses_more_of_its_motion_than_the_others() -> None:
    def lost(moving: float, zero: float) -> dict[str, Any]:
        return {"demonstrations": "all", "epe_moving": moving, "epe_moving_zero": zero}

    even = {"object": lost(3, 10), "long": lost(9, 30), "goal": lost(2, 7)}
    assert not alarms(even), "long motions have long errors"
    assert not alarms({"object": lost(0, 0)})
    (said,) = alarms({**even, "spatial": lost(6, 10)})
    assert "spatial lose 60%" in said
