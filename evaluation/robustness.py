"""Perturbed evaluations beside the plain ones: the same adapter on the same tasks, initial states and seeds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.choices import Mode
from configs.perturbation import Perturbation
from evaluation.episodes import Outcome
from evaluation.statistics import Difference, PairedCounts, mcnemar_exact, pair, paired_difference
from evaluation.table import DASH, RunRecord

_EpisodeName = tuple[str, int, int, int]  # suite, task, init state, seed

HEAD = (
    "",
    "mode",
    "perturbation",
    "suites",
    "plain",
    "perturbed",
    "only plain",
    "only perturbed",
    "difference [95 %]",
    "p (exact)",
)


@dataclass(frozen=True)
class Robustness:
    """One row of the table under one perturbation, suites pooled."""

    label: str
    mode: str
    perturbation: Perturbation
    suites: tuple[str, ...]
    counts: PairedCounts  # a: plain, b: perturbed
    successes: int  # of the perturbed episodes, with a partner or without
    trials: int

    @property
    def difference(self) -> Difference:
        """Perturbed minus plain."""
        return paired_difference(self.counts)

    def cells(self) -> list[str]:
        """As texts, in the order of HEAD. Dashes where the same adapter has no plain evaluation to compare with."""
        first = [self.label, self.mode, str(self.perturbation), ", ".join(self.suites)]
        counts = self.counts
        if not counts.pairs:
            return [*first, DASH, f"{self.successes}/{self.trials}", *[DASH] * 4]
        low, high = self.difference.interval.low, self.difference.interval.high
        return [
            *first,
            f"{counts.both + counts.only_a}/{counts.pairs}",
            f"{counts.both + counts.only_b}/{counts.pairs}",
            str(counts.only_a),
            str(counts.only_b),
            f"{100 * self.difference.value:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]",
            f"{mcnemar_exact(counts):.3f}",
        ]


def robustness(records: Sequence[RunRecord]) -> list[Robustness]:
    """By mode, then row and perturbation, in the order of the records. Errors are episodes of nobody."""
    rows: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        if record.perturbation:
            rows.setdefault((record.phase, record.perturbation), []).append(record)
    found = [_compare(records, members, mode) for mode in Mode for members in rows.values()]
    return [entry for entry in found if entry.trials]


def _compare(records: Sequence[RunRecord], perturbed: Sequence[RunRecord], mode: Mode) -> Robustness:
    adapters = {record.summary["adapter"] for record in perturbed}
    partners = [r for r in records if not r.perturbation and r.summary["adapter"] in adapters]
    plain, ours = _outcomes(partners, mode), _outcomes(perturbed, mode)
    shared = sorted(plain.keys() & ours.keys())
    return Robustness(
        label=perturbed[0].label,
        mode=mode.value,
        perturbation=Perturbation.parse(perturbed[0].perturbation),
        suites=tuple(record.subset.value for record in perturbed),
        counts=pair([plain[name] for name in shared], [ours[name] for name in shared]),
        successes=sum(ours.values()),
        trials=len(ours),
    )


def _outcomes(records: Sequence[RunRecord], mode: Mode) -> Mapping[_EpisodeName, bool]:
    return {
        (record.subset.value, e.key.task_id, e.key.init_state, e.key.seed): e.outcome is Outcome.SUCCESS
        for record in records
        for e in record.episodes
        if e.key.mode == mode.value and e.outcome is not Outcome.ERROR
    }
