"""Flow tokens by path: taken with their tokenizer, or refused with both values before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from configs.data import CodebookConfig, EnvConfig
from configs.slices import CodebookSlice, FlowSlice, GridSlice, TokensSlice
from data_pipeline.contract import EnvironmentProblem, EpisodeId, FlowTokens
from data_pipeline.flow_tokens import load_flow_tokens, save_flow_tokens
from experiment.given_flow import FLOW_TOKENS, flow_tokens_given
from experiment.stages import StageNode, make_node
from experiment.store import Store
from flow_pipeline.fsq_definition import fsq_definition
from flow_pipeline.grid_tokenizer import GridTokenizer
from flow_pipeline.vq_encoder import load_tokenizer, save_tokenizer

EPISODE = EpisodeId(Subset.OBJECT, 0, 3)
GRID = GridTokenizer(4, 5, 0.75)
FITTED = CodebookSlice(8, 0.75, CodebookConfig((Subset.OBJECT,)))


def own(k: int = 8, *, fitted: bool = False) -> StageNode:
    """The stage that given tokens stand for."""
    flow = make_node("flow", "object", FlowSlice(Subset.OBJECT, "sim", k, EnvConfig("builtin")), {})
    codebook = make_node("codebook", "", FITTED, {"flow/object": flow})
    config = TokensSlice(Subset.OBJECT, None if fitted else GridSlice(**vars(GRID)))
    return make_node("tokens", "object", config, {"flow": flow, **({"codebook": codebook} if fitted else {})})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "outputs/.store")
    made.prepare()
    return made


def write(path: Path, definition: dict[str, Any], digest: str, num_codes: int = 26) -> Path:
    tokens = FlowTokens(EPISODE, np.ones((5, 16), np.uint16), np.zeros(5, np.uint16), 8, num_codes, digest)
    save_flow_tokens(path, {EPISODE: tokens}, {"tokenizer": definition})
    return path


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_taken_whole_under_the_stages_own_names(store: Store, tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / "mine.json", GRID.definition, GRID.digest).with_suffix(suffix)
    node = flow_tokens_given(store, path, own())
    folder = store.entry(node.stage, node.key)
    assert {name.name for name in folder.iterdir()} >= set(FLOW_TOKENS)
    assert load_flow_tokens(folder / FLOW_TOKENS[1])[EPISODE].codes.shape == (5, 16)
    assert load_tokenizer(folder / FLOW_TOKENS[2]).digest == GRID.digest
    assert flow_tokens_given(store, path, own()).key == node.key


def test_another_horizon_or_tokenizer_is_refused_with_both_values(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", GRID.definition, GRID.digest)
    with pytest.raises(ConfigError, match=r"mine\.json: k is 8, and this run needs 5; .*preprocess_flow"):
        flow_tokens_given(store, path, own(k=5))
    other = replace(GRID, cells=8)
    path = write(tmp_path / "other.json", other.definition, other.digest)
    with pytest.raises(ConfigError, match=r"tokenizer\.cells is 8, and this run needs 4"):
        flow_tokens_given(store, path, own())
    with pytest.raises(ConfigError, match=r"tokenizer\.name is 'grid', and this run needs 'fsq'"):
        flow_tokens_given(store, path, own(fitted=True))


def test_a_damaged_file_is_refused(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", GRID.definition, GRID.digest)
    path.write_text(path.read_text().replace("[1,1,", "[1,2,", 1))
    with pytest.raises(EnvironmentProblem, match=r"mine\.json is damaged.*manifest says"):
        flow_tokens_given(store, path, own())


def test_fitted_tokens_need_their_own_tokenizer_beside_them(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", fsq_definition(FITTED), "abc", 513)
    with pytest.raises(ConfigError, match=r"mine\.safetensors is missing"):
        flow_tokens_given(store, path, own(fitted=True))
    save_tokenizer(tmp_path / "mine.safetensors", GRID.definition, {})
    with pytest.raises(ConfigError, match=rf"is tokenizer {GRID.digest[:16]}, and .*mine\.json was made by abc"):
        flow_tokens_given(store, path, own(fitted=True))
