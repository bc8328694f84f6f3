"""Finished evaluations -> one table: rows are phases by mode, columns are suites. Pure; reads only what it is given.

Numbers of different protocols, environments or base models never share a table: `check_mergeable` refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from configs.checks import ConfigError
from configs.choices import STUDY, Mode, Subset
from evaluation.episodes import EpisodeResult, Outcome
from evaluation.identity import difference
from evaluation.messages import PERTURBATION
from evaluation.statistics import (
    Difference,
    Interval,
    PairedCounts,
    holm,
    mcnemar_exact,
    pair,
    paired_difference,
    wilson,
)

AVERAGE = "average"
DASH = "–"


@dataclass(frozen=True)
class RunRecord:
    """One adapter's evaluation and training, as read from files."""

    slug: str  # phase/subset, of a perturbed evaluation phase/subset@camera2
    subset: Subset
    summary: Mapping[str, Any]
    episodes: tuple[EpisodeResult, ...]
    losses: tuple[Mapping[str, Any], ...]  # rows of metrics.jsonl, () without training

    @property
    def phase(self) -> str:
        """What stands before the subset in the slug."""
        return self.slug.rpartition("/")[0]

    @property
    def is_control(self) -> bool:
        """Whether the policy was not trained: no phase, no base model, and as many steps per query as suit it."""
        return "segments" not in self.summary["card"].get("phase", {})

    @property
    def variant(self) -> str:
        """What tells a variant of a phase apart: `prob0.3`, `seed1`; "" for the phase itself."""
        return variant_of(self.phase)

    @property
    def environment(self) -> dict[str, Any]:
        """The fingerprint but for the perturbation: what records of one report have in common."""
        return {name: value for name, value in self.summary["fingerprint"].items() if name != PERTURBATION}

    @property
    def perturbation(self) -> str:
        """`camera:2`; "" of plain episodes, which alone are in the table's cells."""
        return self.summary["fingerprint"].get(PERTURBATION, "")

    @property
    def label(self) -> str:
        """For people: the phase's label, with what tells a variant apart."""
        spec = self.summary["card"].get("phase", {})
        name = self.phase.partition("@")[0]
        return (spec.get("label") or name) + (f" @{self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Cell:
    """Successes of one row on one suite, or on all. Errors are not trials."""

    successes: int
    trials: int
    errors: int

    @property
    def rate(self) -> float:
        """Share of successes; 0 without trials."""
        return self.successes / self.trials if self.trials else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson, 95 %."""
        return wilson(self.successes, self.trials)

    def text(self) -> str:
        """For example `12/30 · 40 % [25, 58]`, with `n=5/6 (1 error)` where the simulator broke."""
        if not self.trials:
            share = f"{DASH} "
        else:
            low, high = self.interval.low, self.interval.high
            share = f"{self.successes}/{self.trials} · {percent(self.rate)} % [{percent(low)}, {percent(high)}]"
        if not self.errors:
            return share
        plural = "" if self.errors == 1 else "s"
        return f"{share} n={self.trials}/{self.trials + self.errors} ({self.errors} error{plural})"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    phase: str
    label: str
    mode: str
    cells: Mapping[str, Cell]  # by subset, and AVERAGE; absent: not run


@dataclass(frozen=True)
class Comparison:
    """Two rows on the episodes that both have."""

    first: Row
    second: Row
    counts: PairedCounts
    difference: Difference  # second minus first
    p_value: float
    adjusted: float  # Holm, over the comparisons of its mode and variant


def variant_of(phase: str) -> str:
    """What stands behind the @ of a row's phase."""
    return phase.partition("@")[2]


def columns_of(rows: Iterable[Row]) -> tuple[Subset, ...]:
    """The suites of the study, run or not, and libero_90 where a row has it."""
    found = {name for row in rows for name in row.cells}
    return tuple(subset for subset in Subset if subset in STUDY or subset.value in found)


def heading(subset: str) -> str:
    """What a column is called."""
    return "LIBERO-90" if subset == Subset.NINETY.value else subset.capitalize()


def percent(share: float) -> str:
    """Whole percent."""
    return f"{100 * share:.0f}"


def check_mergeable(records: Sequence[RunRecord]) -> None:
    """Raise ConfigError where two evaluations differ in protocol, environment or base model."""
    known: dict[str, tuple[str, Any]] = {}  # condition -> the first slug that has it, and its value
    for record in records:
        for what, value in _conditions(record).items():
            first, expected = known.setdefault(what, (record.slug, value))
            if value != expected:
                raise ConfigError(
                    f"{first} and {record.slug} cannot share a table: {what} differs ({difference(expected, value)}). "
                    "Evaluate both again under one setting, or report them apart"
                )


def _conditions(record: RunRecord) -> dict[str, Any]:
    """What rows of one table have in common. A control has no base model, and may have its own steps per query."""
    protocol, card = record.summary["protocol"], record.summary["card"]
    # The step limit is the suite's own, so it differs between columns by design.
    shared = {name: value for name, value in protocol.items() if name not in ("max_steps", "execute")}
    conditions = {"protocol": shared, "environment fingerprint": record.environment}
    if record.is_control:
        return conditions
    own = {"steps per query": protocol["execute"], "base model": card["base"]}
    return {**conditions, **own, "device and number format": card.get("computed")}


def make_rows(records: Sequence[RunRecord]) -> list[Row]:
    """Rows by mode, then by phase in the order given, so that phases stand under each other."""
    phases = list(dict.fromkeys(record.phase for record in records))
    rows: list[Row] = []
    for mode in Mode:
        for phase in phases:
            members = [r for r in records if r.phase == phase]
            cells = {r.subset.value: cell for r in members if (cell := _cell(_of(r, mode.value))) is not None}
            if cells:
                rows.append(Row(phase, members[0].label, mode.value, _with_average(cells)))
    return rows


def task_cells(records: Sequence[RunRecord], row: Row) -> dict[tuple[str, int], Cell]:
    """(subset, task) -> counts of one row."""
    found: dict[tuple[str, int], Cell] = {}
    for record in records:
        episodes = _of(record, row.mode) if record.phase == row.phase else []
        for task in sorted({e.key.task_id for e in episodes}):
            cell = _cell([e for e in episodes if e.key.task_id == task])
            assert cell is not None
            found[(record.subset.value, task)] = cell
    return found


def compare(records: Sequence[RunRecord], rows: Sequence[Row]) -> list[Comparison]:
    """Each phase with the next of its mode and variant, pooled over suites, on the episodes that both finished.

    Holm within a mode and variant. Controls are no phases: comparing with one would only weaken the correction.
    """
    phases = {r.phase for r in records if not r.is_control}
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.phase in phases:
            families.setdefault((row.mode, variant_of(row.phase)), []).append(row)
    return [comparison for family in families.values() for comparison in _compare_in_order(records, family)]


def _compare_in_order(records: Sequence[RunRecord], rows: Sequence[Row]) -> list[Comparison]:
    counted = [(a, b, _paired(records, a, b)) for a, b in pairwise(rows)]
    counted = [(a, b, counts) for a, b, counts in counted if counts.pairs]
    p_values = [mcnemar_exact(counts) for _, _, counts in counted]
    return [
        Comparison(a, b, counts, paired_difference(counts), p, adjusted)
        for (a, b, counts), p, adjusted in zip(counted, p_values, holm(p_values), strict=True)
    ]


def _of(record: RunRecord, mode: str) -> list[EpisodeResult]:
    return [e for e in record.episodes if e.key.mode == mode]


def _cell(episodes: Sequence[EpisodeResult]) -> Cell | None:
    if not episodes:
        return None
    errors = sum(e.outcome is Outcome.ERROR for e in episodes)
    return Cell(sum(e.outcome is Outcome.SUCCESS for e in episodes), len(episodes) - errors, errors)


def _with_average(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Add the pooled cell where every suite of the study was run: an average over other suites is another number."""
    study = [cells[subset.value] for subset in STUDY if subset.value in cells]
    return {**cells, AVERAGE: _pooled(study)} if len(study) == len(STUDY) else dict(cells)


def _pooled(cells: Iterable[Cell]) -> Cell:
    listed = list(cells)
    return Cell(sum(c.successes for c in listed), sum(c.trials for c in listed), sum(c.errors for c in listed))


def _paired(records: Sequence[RunRecord], first: Row, second: Row) -> PairedCounts:
    ours, theirs = _outcomes(records, first), _outcomes(records, second)
    shared = sorted(ours.keys() & theirs.keys())
    return pair([ours[key] for key in shared], [theirs[key] for key in shared])


def _outcomes(records: Sequence[RunRecord], row: Row) -> dict[tuple[str, int, int, int], bool]:
    return {
        (record.subset.value, e.key.task_id, e.key.init_state, e.key.seed): e.outcome is Outcome.SUCCESS
        for record in records
        if record.phase == row.phase
        for e in _of(record, row.mode)
        if e.outcome is not Outcome.ERROR
    }
