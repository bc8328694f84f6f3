"""Whatever the logits, a constrained sequence spells exactly the coefficients of one chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.decoding import IMPOSSIBLE, UNREACHABLE, ActionConstraint, CodeAutomaton, fewest_codes
from tests.helpers.tiny_adapter import HORIZON, fitted_actions, write_hub_fast
from training.action_alphabets import UndecodableAction
from training.action_tokenizer import from_hub_files


def whole_codes(lengths: list[int]) -> CodeAutomaton:
    """Every code spells a whole number of coefficients: one state."""
    return CodeAutomaton(np.array([lengths]), np.zeros((1, len(lengths)), int))


def byte_codes() -> CodeAutomaton:
    """Codes of bytes: 0 a character, 1 a first half, 2 a second half, 3 a second half and another first."""
    coefficients = np.array([[1, 0, IMPOSSIBLE, IMPOSSIBLE], [IMPOSSIBLE, IMPOSSIBLE, 1, 1]])
    return CodeAutomaton(coefficients, np.array([[0, 1, 0, 0], [0, 0, 0, 1]]))


def greedy(constraint: ActionConstraint, rows: int, rng: np.random.Generator) -> list[list[int]]:
    state, left = constraint.start(rows)
    written: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(constraint.longest):
        logits = rng.normal(size=(rows, constraint.allowed.shape[-1]))
        codes = np.where(constraint.allowed[state, left], logits, -np.inf).argmax(-1)
        open_rows = np.flatnonzero((left > 0) | (state > 0))
        if not len(open_rows):
            break
        for row in open_rows:
            written[row].append(int(codes[row]))
        state[open_rows], left[open_rows] = constraint.advance(state[open_rows], left[open_rows], codes[open_rows])
    return written


def spelled(automaton: CodeAutomaton, codes: list[int]) -> tuple[int, int]:
    state, total = 0, 0
    for code in codes:
        assert automaton.coefficients[state, code] != IMPOSSIBLE
        total += int(automaton.coefficients[state, code])
        state = int(automaton.following[state, code])
    return state, total


@pytest.mark.parametrize("automaton", [whole_codes([1, 2, 5, 9]), whole_codes([3, 7]), byte_codes()])
def test_random_logits_always_spell_a_chunk(automaton: CodeAutomaton) -> None:
    constraint = ActionConstraint(automaton, 35)
    for codes in greedy(constraint, 64, np.random.default_rng(0)):
        assert spelled(automaton, codes) == (0, 35)


def test_the_fewest_codes_of_a_coin_problem() -> None:
    need = fewest_codes(whole_codes([3, 7]), 14)
    assert need[0, 0] == 0
    assert need[0, 14] == 2
    assert need[0, 13] == 3  # 7 + 3 + 3
    assert need[0, 11] == UNREACHABLE


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 40))
def test_unspellable_chunks_are_refused_and_others_never_get_stuck(lengths: list[int], total: int) -> None:
    automaton = whole_codes(lengths)
    if fewest_codes(automaton, total)[0, total] >= UNREACHABLE:
        with pytest.raises(ValueError, match="no sequence of codes"):
            ActionConstraint(automaton, total)
        return
    for codes in greedy(ActionConstraint(automaton, total), 8, np.random.default_rng(1)):
        assert spelled(automaton, codes) == (0, total)


def test_a_code_that_spells_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="could not end"):
        whole_codes([0, 1])


@pytest.mark.parametrize("kind", ["symbols", "bytes"])
def test_random_logits_are_decoded_by_real_vocabularies_where_free_ones_are_not(kind: str, tmp_path: Path) -> None:
    tokenizer = fitted_actions() if kind == "symbols" else from_hub_files(str(write_hub_fast(tmp_path)), HORIZON)
    following, count = tokenizer.transitions()
    constraint = ActionConstraint(CodeAutomaton(count, following), tokenizer.num_coefficients)
    written = greedy(constraint, 64, np.random.default_rng(0))
    chunks = [tokenizer.decode(codes) for codes in written]
    assert {chunk.shape for chunk in chunks} == {(HORIZON, 7)}
    assert max(map(len, written)) <= constraint.longest
    free = np.random.default_rng(0).integers(0, tokenizer.num_codes, (64, constraint.longest))
    refused = 0
    for codes, like in zip(free, written, strict=True):
        try:
            tokenizer.decode(codes[: len(like)].tolist())
        except UndecodableAction:
            refused += 1
    assert refused > 60
