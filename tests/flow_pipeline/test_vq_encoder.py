"""Flow tokens: decode then encode gives the codes back, still cells are static, and the definition has a digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.checks import ConfigError
from data_pipeline.contract import STATIC_CODE, EnvironmentProblem
from flow_pipeline.grid_tokenizer import LIMIT_PX, GridTokenizer
from flow_pipeline.vq_encoder import TOKENIZER_FILE, load_tokenizer, save_tokenizer

tokenizers = st.builds(GridTokenizer, st.integers(1, 16), st.integers(3, 33), st.floats(0, 2))


@given(tokenizer=tokenizers, seed=st.integers(0, 2**31))
def test_decode_then_encode_then_decode_is_the_same_flow(tokenizer: GridTokenizer, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, tokenizer.num_codes, (2, tokenizer.cells**2))
    flow = tokenizer.decode(codes)
    again = tokenizer.encode(flow)
    moves = np.linalg.norm(flow, axis=-1).reshape(codes.shape) > tokenizer.static_px + 1e-3
    np.testing.assert_array_equal(again[moves], codes[moves])
    assert (again[~moves & (codes == STATIC_CODE) & (tokenizer.static_px > 0)] == STATIC_CODE).all()


@given(tokenizer=tokenizers, seed=st.integers(0, 2**31))
def test_codes_fit_the_vocabulary_for_any_flow(tokenizer: GridTokenizer, seed: int) -> None:
    flow = np.random.default_rng(seed).normal(0, 200, (3, 32, 32, 2))
    codes = tokenizer.encode(flow)
    assert codes.dtype == np.uint16
    assert codes.shape == (3, tokenizer.cells**2)
    assert codes.max() < tokenizer.num_codes
    assert np.abs(tokenizer.decode(codes)).max() <= LIMIT_PX


def test_quantisation_error_is_at_most_a_bin() -> None:
    tokenizer = GridTokenizer(cells=8, levels=33, static_px=0.75)
    flow = np.random.default_rng(0).uniform(-LIMIT_PX, LIMIT_PX, (4, 8, 8, 2)).astype(np.float32)
    error = np.abs(tokenizer.decode(tokenizer.encode(flow)) - flow)
    assert (error <= 0.1 * np.abs(flow) + 1).all()


def test_static_gate_and_signs() -> None:
    tokenizer = GridTokenizer(cells=2, levels=5, static_px=0.75)
    flow = np.zeros((1, 2, 2, 2), np.float32)
    flow[0, 0, 0] = [0.5, 0.5]
    flow[0, 0, 1] = [20, 0]
    flow[0, 1, 1] = [0, -20]
    codes = tokenizer.encode(flow)
    assert codes[0, 0] == codes[0, 2] == STATIC_CODE
    decoded = tokenizer.decode(codes)
    assert decoded[0, 0, 1, 0] > 5
    assert decoded[0, 0, 1, 1] == 0
    assert decoded[0, 1, 1, 1] < -5


def test_codes_outside_the_vocabulary_are_refused() -> None:
    tokenizer = GridTokenizer(cells=1, levels=3, static_px=0.75)
    for bad in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            tokenizer.decode(np.array([[bad]]))


def test_the_digest_follows_the_definition() -> None:
    digests = {GridTokenizer(4, 5, 0.75).digest, GridTokenizer(4, 5, 0.75).digest, GridTokenizer(4, 7, 0.75).digest}
    assert len(digests) == 2


def test_a_tokenizer_of_another_meaning_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / TOKENIZER_FILE
    with pytest.raises(EnvironmentProblem, match="preprocess_flow"):
        load_tokenizer(path)
    save_tokenizer(path, GridTokenizer(4, 5, 0.75).definition | {"limit_px": 47.0}, {})
    with pytest.raises(ConfigError, match=r"47\.0.*48\.0"):
        load_tokenizer(path)
