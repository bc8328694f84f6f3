"""FAST: round trips, exactness, and that nothing malformed is ever decoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem
from evaluation.decoding import ActionConstraint, CodeAutomaton
from tests.helpers.tiny_adapter import HORIZON, fitted_actions, smooth_chunks, write_hub_fast
from training import action_tokenizer
from training.action_alphabets import UndecodableAction, byte_characters
from training.action_tokenizer import FastTokenizer, from_hub_files

SCALE = 5.0
MIN_TOKEN = -354
SYMBOLS = fitted_actions()
CHUNKS = arrays(np.float32, (HORIZON, 7), elements=st.floats(-1, 1, width=32))


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_fast(tmp_path_factory.mktemp("fast"), SCALE, MIN_TOKEN)


@pytest.fixture(scope="session")
def byte_level(hub_folder: Path) -> FastTokenizer:
    return from_hub_files(str(hub_folder), HORIZON)


def assert_round_trip(tokenizer: FastTokenizer, chunk: np.ndarray) -> None:
    decoded = tokenizer.decode(tokenizer.encode(chunk))
    assert decoded.shape == chunk.shape
    assert decoded.dtype == np.float32
    # Orthonormal: the squared error is that of the coefficients, each off by at most half a step.
    assert np.linalg.norm(decoded - chunk) <= 0.5 / SCALE * np.sqrt(chunk.size) + 1e-5


@given(CHUNKS)
def test_symbols_round_trip_within_the_quantisation_error(chunk: np.ndarray) -> None:
    assert_round_trip(SYMBOLS, chunk)


@settings(deadline=None)
@given(chunk=CHUNKS)
def test_bytes_round_trip_within_the_quantisation_error(byte_level: FastTokenizer, chunk: np.ndarray) -> None:
    assert_round_trip(byte_level, chunk)


@pytest.mark.parametrize("kind", ["symbols", "bytes"])
def test_transitions_count_what_decoding_finds(kind: str, byte_level: FastTokenizer) -> None:
    tokenizer = SYMBOLS if kind == "symbols" else byte_level
    end, count = tokenizer.transitions()
    assert end.shape == count.shape == ({"symbols": 1, "bytes": 2}[kind], tokenizer.num_codes)
    for chunk in smooth_chunks(50, seed=9):
        state = total = 0
        for code in tokenizer.encode(chunk):
            assert count[state, code] >= 0
            state, total = end[state, code], total + count[state, code]
        assert (state, total) == (0, HORIZON * 7)


def test_an_impossible_code_is_minus_one(byte_level: FastTokenizer) -> None:
    _, count = byte_level.transitions()
    assert (count == -1).any()
    assert (SYMBOLS.coefficients >= 1).sum() > 100


def test_saving_then_loading_gives_the_same_tokenizer(tmp_path: Path, byte_level: FastTokenizer) -> None:
    for tokenizer in (SYMBOLS, byte_level):
        tokenizer.save(tmp_path / "a.json")
        loaded = action_tokenizer.load(tmp_path / "a.json")
        assert loaded.digest == tokenizer.digest
        assert all(loaded.encode(c) == tokenizer.encode(c) for c in smooth_chunks(20))


def test_fitting_twice_gives_the_same_bytes_and_other_data_others() -> None:
    assert fitted_actions().to_json() == SYMBOLS.to_json()
    other = action_tokenizer.fit(smooth_chunks(500, seed=1), HORIZON, SCALE, 256)
    assert other.digest != SYMBOLS.digest


def test_the_alphabet_covers_the_extremes() -> None:
    for frequency in range(HORIZON):
        wave = np.sign(np.cos(np.pi * frequency * (np.arange(HORIZON) + 0.5) / HORIZON))
        chunk = np.repeat(wave[:, None], 7, axis=1).astype(np.float32)
        assert_round_trip(SYMBOLS, chunk)
        assert_round_trip(SYMBOLS, -chunk)


def test_too_few_codes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 41"):
        action_tokenizer.fit(smooth_chunks(3), HORIZON, SCALE, 40)


def test_wrong_lengths_and_unknown_codes_are_undecodable() -> None:
    codes = SYMBOLS.encode(smooth_chunks(1)[0])
    for broken in (codes[:-1], [*codes, codes[0]], [], [*codes, 10**6]):
        with pytest.raises(UndecodableAction):
            SYMBOLS.decode(broken)


def test_half_characters_are_undecodable_though_the_length_is_right(byte_level: FastTokenizer) -> None:
    """Where the reference gives U+FFFD, a coefficient of 65,179, and no error."""
    codes = {t: i for t, i in json.loads(byte_level.to_json())["tokenizer"]["model"]["vocab"].items()}
    spell = byte_characters()
    lead, rest = codes[spell[0xC5]], codes[spell[0xA2]]  # U+0162 is 354, coefficient 0
    assert (byte_level.decode([lead, rest] * (HORIZON * 7)) == 0).all()
    with pytest.raises(UndecodableAction, match="half a character"):
        byte_level.decode([lead, rest] * (HORIZON * 7 - 1) + [lead])
    three_bytes = [codes[spell[b]] for b in "\ufffd".encode()]
    with pytest.raises(UndecodableAction, match="no coefficient"):
        byte_level.decode([lead, rest] * (HORIZON * 7 - 1) + three_bytes)


def test_random_codes_are_decoded_or_refused_never_huge(byte_level: FastTokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        codes = rng.integers(0, byte_level.num_codes, rng.integers(5, 60)).tolist()
        try:
            assert np.abs(byte_level.decode(codes)).max() < 0x800
        except UndecodableAction:
            continue


def test_a_missing_tokenizer_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match="hf download someone/fast"):
        from_hub_files("someone/fast", HORIZON)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="'scale'"):
        from_hub_files(str(tmp_path), HORIZON)


def test_actions_that_are_not_clipped_get_an_alphabet_that_spells_them_or_are_refused(
    byte_level: FastTokenizer,
) -> None:
    """action.normalization=normal: the fit covers the largest possible value; other files say how far they reach."""
    wide = action_tokenizer.fit([3.5 * c for c in smooth_chunks(200)], HORIZON, SCALE, 256, largest=5.0)
    for chunk in (np.full((HORIZON, 7), 5.0), 5.0 * smooth_chunks(1, seed=3)[0]):
        assert_round_trip(wide, chunk.astype(np.float32))
    wide.check_reach(5.0)
    with pytest.raises(ConfigError, match=r"up to 9 need at least 361 .*action.normalization=bounds_q99"):
        action_tokenizer.fit(smooth_chunks(9), HORIZON, SCALE, 256, largest=9.0)
    SYMBOLS.check_reach(1.0)
    for tokenizer in (SYMBOLS, byte_level):
        with pytest.raises(ConfigError, match="may reach 40, and this action tokenizer spells up to"):
            tokenizer.check_reach(40.0)
    assert byte_level.reach == pytest.approx(-MIN_TOKEN / SCALE / 4)


def test_a_constrained_decode_reaches_what_the_wide_alphabet_spells() -> None:
    wide = action_tokenizer.fit([3.5 * c for c in smooth_chunks(200)], HORIZON, SCALE, 256, largest=5.0)
    following, coefficients = wide.transitions()
    constraint = ActionConstraint(CodeAutomaton(coefficients, following), wide.num_coefficients)
    state, left = constraint.start(1)
    for code in wide.encode(np.full((HORIZON, 7), -5.0)):
        assert constraint.allowed[state[0], left[0], code]
        state, left = constraint.advance(state, left, np.array([code]))
    assert (state[0], left[0]) == (0, 0)
