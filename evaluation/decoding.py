"""Constrained decoding of actions: whatever the logits say, the sequence spells exactly H x 7 coefficients.

A FAST code spells a fixed number of DCT coefficients, and in byte-level vocabularies it may stop inside a character.
`FastTokenizer.transitions` describes both as a small automaton. From it follows a table of the fewest codes that
complete a chunk from (state, coefficients left); a code is allowed where it leaves a completable rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = -1
"""Entry of `coefficients` for a code that cannot be read in that state."""

UNREACHABLE = np.iinfo(np.int32).max // 2


@dataclass(frozen=True)
class CodeAutomaton:
    """How codes spell coefficients. State 0 is 'between coefficients', the start and the only end."""

    coefficients: np.ndarray  # int [S, V]: coefficients that code v completes when read in state s, or IMPOSSIBLE
    following: np.ndarray  # int [S, V]: the state after it; anything where IMPOSSIBLE

    def __post_init__(self) -> None:
        idle = (self.coefficients == 0) & (self.following == np.arange(len(self.following))[:, None])
        if idle.any():
            raise ValueError(
                f"codes {np.argwhere(idle)[:5].tolist()} (state, code) spell nothing: decoding could not end"
            )


def fewest_codes(automaton: CodeAutomaton, total: int) -> np.ndarray:
    """Fewest codes that spell the rest. Returns int32 [S, total + 1], UNREACHABLE where nothing does."""
    states = len(automaton.coefficients)
    moves = [_distinct_moves(automaton, state) for state in range(states)]
    need = np.full((states, total + 1), UNREACHABLE, np.int32)
    need[0, 0] = 0
    for rest in range(total + 1):
        # Moves that complete no coefficient stay at the same `rest`, so each state may need another's new value.
        for _ in range(states):
            for state in range(states):
                options = [need[after, rest - spelled] + 1 for spelled, after in moves[state] if spelled <= rest]
                need[state, rest] = min([need[state, rest], *options])
    return need


class ActionConstraint:
    """Which codes may come next, as one table indexed by (state, coefficients left).

    `allowed` bool [S, total + 1, V]: codes that keep the chunk completable. Raises ValueError if no sequence of codes
    spells `total` coefficients.
    """

    def __init__(self, automaton: CodeAutomaton, total: int) -> None:
        self.automaton = automaton
        self.total = total
        need = fewest_codes(automaton, total)
        if need[0, total] >= UNREACHABLE:
            raise ValueError(f"no sequence of codes spells {total} coefficients")
        self.longest = _longest(automaton, total)
        left = np.arange(total + 1)[None, :, None] - automaton.coefficients[:, None, :]
        possible = (automaton.coefficients[:, None, :] != IMPOSSIBLE) & (left >= 0)
        after = np.where(possible, automaton.following[:, None, :], 0)
        self.allowed = possible & (need[after, np.where(possible, left, 0)] < UNREACHABLE)

    def start(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """State and coefficients left, int64 [rows] each, before the first code."""
        return np.zeros(rows, np.int64), np.full(rows, self.total, np.int64)

    def advance(self, state: np.ndarray, left: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read one allowed code per row; all int64 [rows]."""
        return self.automaton.following[state, codes], left - self.automaton.coefficients[state, codes]


def _distinct_moves(automaton: CodeAutomaton, state: int) -> list[tuple[int, int]]:
    possible = automaton.coefficients[state] != IMPOSSIBLE
    pairs = np.stack([automaton.coefficients[state][possible], automaton.following[state][possible]], axis=1)
    return [(int(spelled), int(after)) for spelled, after in np.unique(pairs, axis=0)]


def _longest(automaton: CodeAutomaton, total: int) -> int:
    """Upper bound of the number of codes: every coefficient visits each state at most once."""
    return total * len(automaton.coefficients)
