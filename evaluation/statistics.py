"""Numbers beside a success rate: Wilson's interval, exact McNemar, Holm's correction, the paired difference.

All pure functions of counts. References: Wilson (1927); McNemar (1947) in its exact, conditional form; Holm (1979);
Newcombe (1998), method 10, for the interval of a difference of paired proportions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A closed interval of proportions."""

    low: float
    high: float


def wilson(successes: int, trials: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a binomial proportion. No trials: the whole of [0, 1]."""
    _check_counts(successes, trials)
    if trials == 0:
        return Interval(0.0, 1.0)
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    # The end points are exact where nothing (or everything) succeeded; rounding must not move them.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


@dataclass(frozen=True)
class PairedCounts:
    """The same episodes under two conditions, A and B."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def pairs(self) -> int:
        """Number of episodes."""
        return self.both + self.only_a + self.only_b + self.neither


def pair(a: Sequence[bool], b: Sequence[bool]) -> PairedCounts:
    """Count outcomes of paired episodes; a[i] and b[i] share init state and seed."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} episodes cannot be paired")
    cells = [(bool(x), bool(y)) for x, y in zip(a, b, strict=True)]
    return PairedCounts(
        cells.count((True, True)), cells.count((True, False)), cells.count((False, True)), cells.count((False, False))
    )


def mcnemar_exact(counts: PairedCounts) -> float:
    """Two-sided p-value: under no difference, the discordant pairs are fair coin tosses."""
    discordant = counts.only_a + counts.only_b
    fewer = min(counts.only_a, counts.only_b)
    tail = sum(math.comb(discordant, i) for i in range(fewer + 1)) / 2**discordant
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family-wise error rate, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Difference:
    """Rate of B minus rate of A, with its 95 % interval."""

    value: float
    interval: Interval


def paired_difference(counts: PairedCounts, z: float = Z95) -> Difference:
    """Newcombe's method 10: Wilson intervals of both rates, joined through their correlation."""
    n = counts.pairs
    if n == 0:
        return Difference(0.0, Interval(-1.0, 1.0))
    a, b = (counts.both + counts.only_a) / n, (counts.both + counts.only_b) / n
    wa, wb = wilson(counts.both + counts.only_a, n, z), wilson(counts.both + counts.only_b, n, z)
    phi = _phi(counts)
    down_b, up_a = b - wb.low, wa.high - a
    up_b, down_a = wb.high - b, a - wa.low
    low = b - a - _joined(down_b, up_a, phi)
    high = b - a + _joined(up_b, down_a, phi)
    return Difference(b - a, Interval(max(-1.0, low), min(1.0, high)))


def _joined(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _phi(counts: PairedCounts) -> float:
    """Correlation of the pairs, with Newcombe's continuity correction where it is positive."""
    e, f, g, h = counts.both, counts.only_a, counts.only_b, counts.neither
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if margins == 0:
        return 0.0
    covariance = e * h - f * g
    if covariance > 0:
        covariance = max(covariance - counts.pairs / 2, 0)
    return covariance / math.sqrt(margins)


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; allowed: 0 to the number of trials")
