"""The fitted tokenizer: bijective codes, an exact gate, and the same tokens whatever runs beside them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.checks import ConfigError
from configs.data import CodebookConfig
from configs.slices import CodebookSlice
from data_pipeline.contract import STATIC_CODE, EnvironmentProblem
from flow_pipeline.codebook import fit_fsq
from flow_pipeline.codec import Fsq
from flow_pipeline.fsq_tokenizer import ROWS, FsqTokenizer, static_cells
from flow_pipeline.vq_encoder import TOKENIZER_FILE, load_tokenizer, save_tokenizer

SMALL = CodebookSlice(8, 0.75, CodebookConfig(levels=(5, 4, 3), width=8, blocks=1, steps=12, batch_size=8))


def moving(steps: int, seed: int = 0) -> np.ndarray:
    """A block that moves over a still background: float16 [steps, 32, 32, 2]."""
    rng = np.random.default_rng(seed)
    flow = np.zeros((steps, 32, 32, 2), np.float16)
    for step in flow:
        row, column = rng.integers(0, 20, 2)
        step[row : row + 9, column : column + 7] = rng.normal(0, 15, 2)
    return flow


@pytest.fixture(scope="module")
def tokenizer() -> FsqTokenizer:
    return fit_fsq(SMALL, [moving(40), moving(40, 1)])


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple))
@settings(max_examples=30, deadline=None)
def test_every_code_is_one_point_and_every_point_one_code(levels: tuple[int, ...]) -> None:
    fsq = Fsq(levels)
    every = torch.arange(int(np.prod(levels))).view(-1, 1, 1)
    points = fsq.look_up(every)
    assert len({tuple(p) for p in points.flatten(1).tolist()}) == len(every)
    assert points.abs().max() <= 1
    count = torch.tensor(levels).view(1, -1, 1, 1)
    half, offset = (count - 1) * 1.001 / 2, torch.where(count % 2 == 0, 0.5, 0.0)
    latent = torch.atanh((points * (count // 2) + offset) / half) - torch.atanh(offset / half)
    decoder_input, codes = fsq.quantise(latent, torch.ones_like(every, dtype=torch.bool))
    assert torch.equal(codes, every)
    assert torch.allclose(decoder_input, points, atol=1e-6)


@given(latent=st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
@settings(deadline=None)
def test_codes_of_any_latent_are_in_range_and_its_gradient_passes(latent: list[float]) -> None:
    value = torch.tensor(latent).view(1, 3, 1, 1).requires_grad_()
    decoder_input, codes = Fsq((8, 5, 2)).quantise(value, torch.ones(1, 1, 1, dtype=torch.bool))
    assert 0 <= int(codes) < 80
    decoder_input.sum().backward()
    assert value.grad is not None
    assert (value.grad >= 0).all()
    assert torch.equal(Fsq((8, 5, 2)).look_up(codes), decoder_input.detach())


@given(seed=st.integers(0, 2**31), scale=st.floats(0, 300))
@settings(max_examples=15, deadline=None)
def test_the_gate_is_exact_and_codes_fit_the_vocabulary(tokenizer: FsqTokenizer, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    flow = (rng.normal(0, scale, (3, 32, 32, 2)) * (rng.random((3, 32, 32, 1)) < 0.02)).astype(np.float32)
    codes = tokenizer.encode(flow)
    still = static_cells(flow, 8, 0.75).reshape(3, 64)
    assert codes.dtype == np.uint16
    assert codes.max() < tokenizer.num_codes == 61
    np.testing.assert_array_equal(codes == STATIC_CODE, still)
    decoded = tokenizer.decode(codes)
    assert decoded.shape == (3, 32, 32, 2)
    assert decoded.dtype == np.float32
    assert np.abs(decoded).max() <= 256
    assert not decoded.reshape(3, 8, 4, 8, 4, 2).transpose(0, 1, 3, 2, 4, 5)[still.reshape(3, 8, 8)].any()
    assert (tokenizer.encode(decoded)[still] == STATIC_CODE).all(), "what stands still stays still"


def test_one_moving_stored_cell_opens_the_gate() -> None:
    flow = np.zeros((1, 32, 32, 2), np.float32)
    flow[0, 31, 0] = [0.75, 0]
    flow[0, 0, 31] = [0.5, 0.5]
    assert np.argwhere(~static_cells(flow, 8, 0.75)).tolist() == [[0, 7, 0]]
    assert not static_cells(flow, 4, 0.0).any(), "0 is no gate"


def test_the_same_step_has_the_same_tokens_in_any_company_on_any_number_of_threads(tokenizer: FsqTokenizer) -> None:
    flow = moving(2 * ROWS + 3, 5)
    together = tokenizer.encode(flow)
    for alone in (0, ROWS - 1, ROWS, len(flow) - 1):
        np.testing.assert_array_equal(tokenizer.encode(flow[alone : alone + 1])[0], together[alone])
    np.testing.assert_array_equal(tokenizer.encode(flow[::-1])[::-1], together)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(tokenizer.encode(flow), together)
            assert torch.get_num_threads() == threads, "left as it was"
    finally:
        torch.set_num_threads(before)


def test_more_cells_are_averaged_and_nothing_gives_nothing(tokenizer: FsqTokenizer) -> None:
    flow = moving(3)
    np.testing.assert_array_equal(tokenizer.encode(flow.repeat(2, 1).repeat(2, 2)), tokenizer.encode(flow))
    assert tokenizer.encode(flow[:0]).shape == (0, 64)
    assert tokenizer.decode(np.zeros((0, 64), np.uint16)).shape == (0, 32, 32, 2)


def test_a_fit_is_a_function_of_its_seed(tokenizer: FsqTokenizer) -> None:
    frames = [moving(40), moving(40, 1)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.manual_seed(999)
        assert fit_fsq(SMALL, frames).digest == tokenizer.digest
    finally:
        torch.set_num_threads(before)
    other = replace(SMALL, codebook=replace(SMALL.codebook, seed=1))
    assert fit_fsq(other, frames).digest != tokenizer.digest


@pytest.mark.slow
def test_it_travels_in_its_file_and_another_process_gives_the_same_tokens(
    tokenizer: FsqTokenizer, tmp_path: Path
) -> None:
    path = tmp_path / TOKENIZER_FILE
    save_tokenizer(path, tokenizer.definition, tokenizer.weights)
    loaded = load_tokenizer(path)
    assert loaded.digest == tokenizer.digest
    assert (loaded.num_codes, loaded.cells) == (61, 8)
    np.save(tmp_path / "flow.npy", moving(5, 3))
    code = (
        "import numpy as np, sys; from pathlib import Path; from flow_pipeline.vq_encoder import load_tokenizer;"
        "t = load_tokenizer(Path(sys.argv[1])); np.save(sys.argv[3], t.encode(np.load(sys.argv[2])))"
    )
    there = str(tmp_path / "codes.npy")
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "flow.npy"), there], check=True)
    np.testing.assert_array_equal(np.load(there), tokenizer.encode(moving(5, 3)))


def test_codes_outside_the_vocabulary_and_foreign_files_are_refused(tokenizer: FsqTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode(np.full((1, 64), 61))
    path = tmp_path / TOKENIZER_FILE
    save_tokenizer(path, {**tokenizer.definition, "scale_px": 5.0}, tokenizer.weights)
    with pytest.raises(ConfigError, match=r"scale_px.*5\.0.*5\.12"):
        load_tokenizer(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EnvironmentProblem, match="preprocess_flow"):
        load_tokenizer(path)
