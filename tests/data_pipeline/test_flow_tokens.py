"""Flow tokens on disk: what is saved is what is loaded; the same values give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem, EpisodeId, FlowTokens
from data_pipeline.flow_tokens import load_flow_manifest, load_flow_tokens, save_flow_tokens

EPISODE = EpisodeId(Subset.OBJECT, 3, 17)


def flow_tokens(codes: np.ndarray) -> FlowTokens:
    return FlowTokens(EPISODE, codes, np.minimum(8, np.arange(len(codes))[::-1]).astype(np.uint16), 8, 26, "abc")


def test_flow_tokens_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    tokens = flow_tokens(np.random.default_rng(0).integers(0, 26, (20, 16)).astype(np.uint16))
    for name in ("a", "b"):
        save_flow_tokens(tmp_path / name, {EPISODE: tokens}, {"backend": "sim", "camera": "agentview"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_flow_tokens(tmp_path / "a")[EPISODE]
    np.testing.assert_array_equal(loaded.codes, tokens.codes)
    np.testing.assert_array_equal(loaded.k_effective, tokens.k_effective)
    assert (loaded.k, loaded.num_codes, loaded.tokenizer_digest) == (8, 26, "abc")
    assert load_flow_manifest(tmp_path / "a")["backend"] == "sim"


def test_a_code_outside_the_vocabulary_is_damage(tmp_path: Path) -> None:
    save_flow_tokens(tmp_path / "f.json", {EPISODE: flow_tokens(np.full((2, 4), 26, np.uint16))}, {})
    with pytest.raises(EnvironmentProblem, match="damaged"):
        load_flow_tokens(tmp_path / "f.json")
