"""What became of the demonstrations that were asked for: one `Outcome` each -> demos.json -> a table for people.

demos.json is a function of the demonstrations alone. Durations differ from run to run: they are the stage's remarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_pipeline.contract import CONTROL_HZ, GRIPPER_OPEN
from data_pipeline.libero_utils import instruction

MIN_START_DISTANCE_M = 0.002
"""A start nearer than this to an official initial state is drawn again.

The official states of a task come as near as 2.3 mm to each other: no demonstration is nearer to an evaluation than
evaluations are among themselves. Measured over 2,000 starts of 40 tasks: it refuses one.
"""
_PATH_POINTS = 20
_NAME_WIDTH = 36


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that did not solve the task."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one demonstration."""

    failed: tuple[FailedAttempt, ...] = ()
    refused_starts: int = 0  # drawn too near to an official initial state, not tried
    steps: int = 0  # 0: there is no demonstration, and what follows says nothing
    seed: int = -1  # of the successful attempt
    distance_to_official_m: float = -1.0  # of its start
    hand_path_m: float = 0.0
    grips: int = 0  # times that the gripper was told to close

    @property
    def success(self) -> bool:
        """Whether there is a demonstration."""
        return self.steps > 0

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Outcome:
        """Inverse of `asdict`."""
        plain: dict[str, Any] = {**values, "failed": tuple(FailedAttempt(**entry) for entry in values["failed"])}
        return cls(**plain)


# ------------------------------------------------------------------ one demonstration


def path_length_m(hand: np.ndarray) -> float:
    """Of positions [T, 3]; all in metres."""
    return float(np.linalg.norm(np.diff(hand, axis=0), axis=1).sum())


def count_grips(actions: np.ndarray) -> int:
    """How often the gripper's command goes from open to close in actions [T, 7]."""
    closed = np.concatenate([[GRIPPER_OPEN], actions[:, 6]]) > 0
    return int((closed[1:] & ~closed[:-1]).sum())


# ------------------------------------------------------------------ one task


def summarise(task_id: int, outcomes: Mapping[int, Outcome], hands: Sequence[np.ndarray]) -> dict[str, Any]:
    """The entry of a task in demos.json. `hands`: of each demonstration made, the hand's positions [T, 3], m."""
    made = [outcome for outcome in outcomes.values() if outcome.success]
    failed = [attempt for outcome in outcomes.values() for attempt in outcome.failed]
    attempts = len(made) + len(failed)
    summary: dict[str, Any] = {
        "task_id": task_id,
        "wanted": len(outcomes),
        "made": len(made),
        "attempts": attempts,
        "failed_attempts": len(failed),
        "success_rate": round(len(made) / attempts, 4),
        "refused_starts": sum(outcome.refused_starts for outcome in outcomes.values()),
        "failure_reasons": dict(sorted(Counter(attempt.reason for attempt in failed).items())),
    }
    return {**summary, **_statistics(made, hands), "demos": {f"demo_{i}": asdict(o) for i, o in outcomes.items()}}


def _statistics(made: Sequence[Outcome], hands: Sequence[np.ndarray]) -> dict[str, Any]:
    if not made:
        return {}
    steps, grips = np.array([outcome.steps for outcome in made]), [outcome.grips for outcome in made]
    seconds, nearest_m = float(steps.sum()) / CONTROL_HZ, min(outcome.distance_to_official_m for outcome in made)
    assert nearest_m >= MIN_START_DISTANCE_M, nearest_m
    return {
        "steps": {"mean": round(float(steps.mean()), 1), "min": int(steps.min()), "max": int(steps.max())},
        "hand_speed_m_s": round(sum(outcome.hand_path_m for outcome in made) / seconds, 4),
        "hand_spread_m": round(hand_spread_m(hands), 4),
        "with_regrasp": sum(count > min(grips) for count in grips),  # closed the gripper oftener than others need to
        "min_distance_to_official_m": nearest_m,
    }


def hand_spread_m(hands: Sequence[np.ndarray]) -> float:
    """How far demonstrations of one task are from being one trajectory, metres.

    The distance of the hand from its mean over the demonstrations, root mean square, at equal fractions of their time.
    """
    at = np.linspace(0, 1, _PATH_POINTS)
    paths = np.array([[np.interp(at, np.linspace(0, 1, len(hand)), axis) for axis in hand.T] for hand in hands])
    return float(np.sqrt(((paths - paths.mean(axis=0)) ** 2).sum(axis=1).mean()))


# ------------------------------------------------------------------ for people


def table(summary: Mapping[str, Any], remarks: Mapping[str, Any]) -> list[str]:
    """Lines about all tasks of a demos.json; `remarks` are those of the stage that wrote it, {} if unknown."""
    tasks: Mapping[str, Any] = summary["tasks"]
    busy_s: Mapping[str, float] = remarks.get("busy_s", {})
    workers: int = remarks.get("workers", 1)
    header = ["task", "made", "failed", "success", "steps", "(min-max)", "m/s", "re-grasp", "start cm", "per min"]
    rows = [header, *(_row(name, task, busy_s.get(name, 0.0) / workers) for name, task in tasks.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return [*lines, *_in_all(tasks, sum(busy_s.values()), workers), *_failures(tasks)]


def _row(name: str, task: Mapping[str, Any], seconds: float) -> list[str]:
    label = f"{task['task_id']} {instruction(name)}"
    first = [
        label if len(label) <= _NAME_WIDTH else f"{label[: _NAME_WIDTH - 3]}...",
        f"{task['made']} of {task['wanted']}",
        str(task["failed_attempts"]),
        f"{task['success_rate']:.0%}",
    ]
    if not task["made"]:
        return [*first, *["-"] * 6]
    steps = task["steps"]
    return [
        *first,
        f"{steps['mean']:.0f}",
        f"({steps['min']}-{steps['max']})",
        f"{task['hand_speed_m_s']:.3f}",
        str(task["with_regrasp"]),
        f"{100 * task['min_distance_to_official_m']:.2f}",
        f"{60 * task['made'] / seconds:.1f}" if seconds else "-",
    ]


def _in_all(tasks: Mapping[str, Any], busy_s: float, workers: int) -> list[str]:
    made, wanted, attempts = (sum(task[key] for task in tasks.values()) for key in ("made", "wanted", "attempts"))
    lines = [f"made {made} of {wanted} demonstrations; {made} of {attempts} attempts succeeded"]
    starts = [task["min_distance_to_official_m"] for task in tasks.values() if task["made"]]
    if starts:
        refused = sum(task["refused_starts"] for task in tasks.values())
        nearest = f"smallest distance of a start to an official initial state: {100 * min(starts):.2f} cm"
        lines.append(f"{nearest} (nearer ones drawn and refused: {refused})")
    if busy_s:
        rate = 60 * made * workers / busy_s
        lines.append(f"{rate:.1f} demonstrations per minute with {workers} worker{'s' if workers > 1 else ''}")
    return lines


def _failures(tasks: Mapping[str, Any]) -> list[str]:
    where: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for task in tasks.values():
        for reason, count in task["failure_reasons"].items():
            counts[reason] += count
            where.setdefault(reason, []).append(f"task {task['task_id']}: {count}")
    lines = [f"  {count:>4} x {reason} ({', '.join(where[reason])})" for reason, count in counts.most_common()]
    return ["failed attempts, none of them written:", *lines] if lines else []
