"""Statistics against scipy and against published worked examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.statistics import PairedCounts, holm, mcnemar_exact, pair, paired_difference, wilson


@given(st.integers(0, 600), st.integers(1, 600))
def test_wilson_equals_scipy(k: int, n: int) -> None:
    k = min(k, n)
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    got = wilson(k, n)
    assert got.low == pytest.approx(expected.low, abs=1e-12)
    assert got.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_of_nothing_says_nothing() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="4 successes of 3"):
        wilson(4, 3)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(PairedCounts(7, only_a, only_b, 3)) == pytest.approx(expected, rel=1e-9)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_paired_difference_on_newcombes_own_example() -> None:
    # Newcombe (1998), 36 and 2 and 12 and 0 of 50 pairs, method 10: 0.2000 (0.0569 to 0.3404).
    got = paired_difference(PairedCounts(both=36, only_a=2, only_b=12, neither=0))
    assert got.value == pytest.approx(0.2)
    assert got.interval.low == pytest.approx(0.0569, abs=5e-5)
    assert got.interval.high == pytest.approx(0.3404, abs=5e-5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_pairing_counts_every_episode_and_swapping_negates_the_difference(rows: list[tuple[bool, bool]]) -> None:
    a, b = [r[0] for r in rows], [r[1] for r in rows]
    counts, swapped = pair(a, b), pair(b, a)
    assert counts.pairs == len(rows)
    one, other = paired_difference(counts), paired_difference(swapped)
    assert one.value == pytest.approx(-other.value)
    assert one.interval.low == pytest.approx(-other.interval.high)
    assert one.interval.low <= one.value <= one.interval.high
