"""``libero_<suite>_metainfo.json``: what became of every demonstration of a regeneration, and the table of it.

{task name: {demo_i: fields of a `Verdict`}}; success and initial_state are named as OpenVLA's regeneration has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from configs.choices import Subset
from data_pipeline.libero_utils import SUITE_OF
from data_pipeline.whole_files import write_json


@dataclass(frozen=True)
class Verdict:
    """What became of one demonstration."""

    success: bool
    initial_state: list[float]  # before settling; [] where it could not be read
    steps: int  # kept
    noops_removed: int
    images: str  # reused | rendered | none
    max_state_deviation: float | None  # from the source's states; None where no-ops were left out
    dropped: str | None  # why it is not in the output
    skipped: bool = False  # dropped without a replay, because it cannot be used

    @classmethod
    def of_bad(cls, reason: str) -> Verdict:
        """Of a demonstration that cannot be used."""
        return cls(
            success=False,
            initial_state=[],
            steps=0,
            noops_removed=0,
            images="none",
            max_state_deviation=None,
            dropped=reason,
            skipped=True,
        )


Metainfo = Mapping[str, Mapping[str, Verdict]]
"""Task name -> demo_i -> verdict."""


def metainfo_name(subset: Subset) -> str:
    """The file's name."""
    return f"{SUITE_OF[subset]}_metainfo.json"


def write_metainfo(path: Path, metainfo: Metainfo) -> None:
    """Atomically."""
    plain = {task: {demo: asdict(verdict) for demo, verdict in demos.items()} for task, demos in metainfo.items()}
    write_json(path, plain)


def read_metainfo(path: Path) -> Metainfo:
    """Inverse of `write_metainfo`."""
    plain: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return {task: {demo: Verdict(**entry) for demo, entry in demos.items()} for task, demos in plain.items()}


# ------------------------------------------------------------------ for people


@dataclass(frozen=True)
class _Row:
    """One line of the table; the fields are its columns."""

    task: str
    demos: int
    kept: int
    failed: int
    skipped: int
    noop_steps: int
    reused: int
    rendered: int
    deviation: str  # largest of a state of a kept demonstration that has no no-ops


def table(metainfo: Metainfo) -> str:
    """Counts per task, and every demonstration that was dropped with the reason. The first row is the heading."""
    rows = [_row(task, list(demos.values())) for task, demos in metainfo.items()]
    rows.append(_row("together", [verdict for demos in metainfo.values() for verdict in demos.values()]))
    heading = [field.name.replace("_", " ") for field in fields(_Row)]
    cells = [heading, *([str(getattr(row, field.name)) for field in fields(_Row)] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heading))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    return "\n".join([*lines, *_dropped_lines(metainfo)])


def _row(task: str, verdicts: Sequence[Verdict]) -> _Row:
    kept = [v for v in verdicts if v.dropped is None]
    deviations = [v.max_state_deviation for v in kept if v.max_state_deviation is not None]
    return _Row(
        task=task,
        demos=len(verdicts),
        kept=len(kept),
        failed=sum(v.dropped is not None and not v.skipped for v in verdicts),
        skipped=sum(v.skipped for v in verdicts),
        noop_steps=sum(v.noops_removed for v in verdicts),
        reused=sum(v.images == "reused" for v in verdicts),
        rendered=sum(v.images == "rendered" for v in verdicts),
        deviation=f"{max(deviations):.1e}" if deviations else "-",
    )


def _dropped_lines(metainfo: Metainfo) -> list[str]:
    return [
        f"{'skipped' if verdict.skipped else 'failed'}: {task}, {demo}: {verdict.dropped}"
        for task, demos in metainfo.items()
        for demo, verdict in demos.items()
        if verdict.dropped is not None
    ]
