"""What the report says, before it is formatted: rows, comparisons, conditions, rollouts, in one plain object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.choices import Mode, Subset
from configs.perturbation import Perturbation
from data_pipeline.contract import digest
from evaluation.endings import Ending, endings
from evaluation.episodes import EpisodeResult, Outcome
from evaluation.records import film_name
from evaluation.robustness import Robustness, robustness
from evaluation.speed import Speed, speeds
from evaluation.table import Cell, Comparison, Row, RunRecord, compare, make_rows, task_cells


@dataclass(frozen=True)
class Clip:
    """One filmed rollout."""

    label: str
    mode: str
    file: str  # relative to the page
    episode: EpisodeResult


@dataclass(frozen=True)
class Scene:
    """The same task and init state under every row that was filmed."""

    subset: str
    instruction: str
    init_state: int
    clips: tuple[Clip, ...]

    @property
    def disagree(self) -> bool:
        """Whether the rows differ in outcome."""
        return len({clip.episode.outcome for clip in self.clips}) > 1


FIGURES = {
    "flow_moving_accuracy": "accuracy of moving flow tokens",
    "flow_epe_moving_px": "error of moving flow, px",
    "test_action_loss_none": "held-out action tokens, no reasoning",
    "test_action_loss_true": "held-out action tokens after the true reasoning",
    "test_action_loss_generated": "held-out action tokens after the model's own reasoning",
}
"""Figures of training that are drawn beside its losses, and what they are called."""


@dataclass(frozen=True)
class Curve:
    """One adapter's losses and figures."""

    label: str
    subset: str
    series: dict[str, tuple[tuple[int, float], ...]]  # name -> (step, loss)


@dataclass(frozen=True)
class Decoding:
    """What decoding cost and hid, for one row."""

    label: str
    mode: str
    queries: int
    tokens_per_query: float
    free_decodable: float  # share of queries
    forced: int  # reasonings cut at the limit
    reasons: tuple[tuple[str, int], ...]  # why episodes did not succeed


@dataclass(frozen=True)
class Story:
    """Everything the formats print."""

    title: str
    records: tuple[RunRecord, ...]
    rows: tuple[Row, ...]
    heat: tuple[tuple[Row, dict[tuple[str, int], Cell]], ...]
    tasks: tuple[tuple[str, int, str], ...]  # subset, task number, task name
    comparisons: tuple[Comparison, ...]
    robustness: tuple[Robustness, ...]
    endings: tuple[Ending, ...]
    speeds: tuple[Speed, ...]
    decoding: tuple[Decoding, ...]
    curves: tuple[Curve, ...]
    scenes: tuple[Scene, ...]
    notes: tuple[str, ...]
    adapters: tuple[tuple[str, str], ...]  # slug, digest
    fingerprint: dict[str, Any]

    @property
    def protocol_name(self) -> str:
        """Of every number here."""
        return self.records[0].summary["protocol"]["name"] if self.records else ""

    @property
    def fingerprint_digest(self) -> str:
        """16 hex digits of the environment's fingerprint."""
        return digest(self.fingerprint)


def tell(records: Sequence[RunRecord], title: str) -> Story:
    """Assemble; the records must be mergeable. Rows and curves are of the plain evaluations alone."""
    plain = [record for record in records if not record.perturbation]
    rows = make_rows(plain)
    return Story(
        title=title,
        records=tuple(plain),
        rows=tuple(rows),
        heat=tuple((row, task_cells(plain, row)) for row in rows),
        tasks=_tasks(plain),
        comparisons=tuple(compare(plain, rows)),
        robustness=tuple(robustness(records)),
        endings=endings(plain, rows),
        speeds=speeds(plain, rows),
        decoding=tuple(_decoding(plain, row) for row in rows),
        curves=tuple(_curve(record) for record in plain if record.losses),
        scenes=_scenes(records),
        notes=_notes(records),
        adapters=tuple((r.slug, r.summary["adapter"]) for r in records),
        fingerprint=records[0].environment if records else {},
    )


def _tasks(records: Sequence[RunRecord]) -> tuple[tuple[str, int, str], ...]:
    found: dict[tuple[str, int], str] = {}
    for record in records:
        for episode in record.episodes:
            key = (record.subset.value, episode.key.task_id)
            found[key] = episode.task_name or found.get(key, "")
    order = [subset.value for subset in Subset]
    return tuple((s, t, found[(s, t)]) for s, t in sorted(found, key=lambda key: (order.index(key[0]), key[1])))


def _decoding(records: Sequence[RunRecord], row: Row) -> Decoding:
    episodes = [e for r in records if r.phase == row.phase for e in r.episodes if e.key.mode == row.mode]
    queries = sum(e.queries for e in episodes)
    reasons = [e.reason for e in episodes if e.outcome is not Outcome.SUCCESS]
    return Decoding(
        row.label,
        row.mode,
        queries,
        sum(e.tokens for e in episodes) / queries if queries else 0.0,
        sum(e.free_decodable for e in episodes) / queries if queries else 0.0,
        sum(e.reasoning_forced for e in episodes),
        tuple((reason, reasons.count(reason)) for reason in sorted(set(reasons))),
    )


def _curve(record: RunRecord) -> Curve:
    names = sorted({name for row in record.losses for name in row if name.startswith("loss") or name in FIGURES})
    series = {
        name: tuple((int(row["step"]), float(row[name])) for row in record.losses if row.get(name) is not None)
        for name in names
    }
    return Curve(record.label, record.subset.value, {n: s for n, s in series.items() if len(s) > 1})


def _scenes(records: Sequence[RunRecord]) -> tuple[Scene, ...]:
    """Filmed episodes grouped by what they show; first those where the rows disagree, then where most can be seen."""
    groups: dict[tuple[str, int, int], list[Clip]] = {}
    for record in records:
        filmed = set(record.summary["videos"])
        for episode in record.episodes:
            name = film_name(episode.key)
            if name in filmed:
                label = record.label + (f", {record.perturbation}" if record.perturbation else "")
                clip = Clip(label, episode.key.mode, f"videos/{record.slug}/{name}", episode)
                groups.setdefault((record.subset.value, episode.key.task_id, episode.key.init_state), []).append(clip)
    scenes = [
        Scene(subset, clips[0].episode.instruction, init_state, tuple(clips))
        for (subset, _, init_state), clips in groups.items()
    ]
    return tuple(sorted(scenes, key=lambda scene: (not scene.disagree, -len(scene.clips))))


def _notes(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """What every number stands on."""
    if not records:
        return ()
    phases = [r for r in records if not r.is_control]
    summary = max(
        phases or records, key=lambda r: r.summary["protocol"]["execute"]
    ).summary  # the expert has its own: 1
    limits = {r.subset.value: r.summary["protocol"]["max_steps"] for r in records}
    steps = ", ".join(f"{limits[s.value]} {s.value}" for s in Subset if s.value in limits)
    thinking = any(e.key.mode == Mode.THINK.value for r in records for e in r.episodes)
    protocol, card = summary["protocol"], summary["card"]
    base = " on ".join(card[name] for name in ("base", "computed") if name in card)
    kept = f"; reasoning kept for {protocol['freeze_chunks']} chunks" if thinking else ""
    success = "read at every step" if protocol["success_within_chunk"] else "read after each chunk"
    seeds = sorted({e.key.seed for r in records for e in r.episodes})
    notes = [
        "Cells: successes/episodes · success rate [Wilson 95 % interval]. A dash is a cell that was not run.",
        f"Protocol {protocol['name']}: {protocol['settle_steps']} settling steps, at most {steps} environment steps, "
        f"{protocol['execute']} executed per query, success {success}{kept}.",
        f"Environment fingerprint {digest(records[0].environment)}: {_short(records[0].environment)}.",
        f"Base model {base or 'none'}; evaluation seed {', '.join(map(str, seeds))}.",
    ]
    if phases:
        notes.append(
            "Rows of several training seeds are printed one by one; no test over seeds is made."
            if any("seed" in r.variant for r in phases)
            else "One training seed: these adapters are compared, not these methods."
        )
    own = {r.label: r.summary["protocol"]["execute"] for r in records if r.is_control}
    notes += [f"{label}: {n} executed per query." for label, n in own.items() if n != protocol["execute"]]
    notes += [
        f"Under {perturbation}: {Perturbation.parse(perturbation).describe()}; paired with the plain episodes."
        for perturbation in sorted({r.perturbation for r in records if r.perturbation})
    ]
    errors = sum(e.outcome is Outcome.ERROR for r in records for e in r.episodes)
    if errors:
        notes.append(f"Episodes ended by a simulator error: {errors}; no failures of a policy, not counted.")
    return tuple(notes)


def _short(fingerprint: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in sorted(fingerprint.items())
    )
