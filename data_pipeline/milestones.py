"""How far an episode came: a watched episode -> its milestones, plain values for a row of results. Pure, numpy only.

A step counts the actions executed, so 0 is the state before the first. `None`: it never happened. Lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.scene import Goal
from data_pipeline.segments import lasting, stretches

LIFTED_M = 0.02
"""Above where it lay, and the hand at it: lifted. What the scripted expert takes for a grasp that holds."""
MOVED_M = 0.05
"""Away from where it lay: moved. A reaching hand that brushes past something shifts it by less."""
FELL_M = 0.05
"""Below where it was let go: it fell, and was not set down. Demonstrations let go up to 5 cm above the place."""

PART_MOVED = 0.25
"""Share of its range by which a drawer, door or knob has moved; brushing past one moves it by less."""


@dataclass(frozen=True)
class Trace:
    """One episode as it was watched: T moments (the first before any action), N movable objects, G goals, Q parts."""

    objects: tuple[str, ...]
    goals: tuple[Goal, ...]
    stated: int  # the first so many are the BDDL goal; the others are what these need first (an opened drawer)
    position: np.ndarray  # float [T, N, 3], body origins
    touched: np.ndarray  # bool [T, N]: by any part of the robot
    grasped: np.ndarray  # bool [T, N]: by both finger pads
    holds: np.ndarray  # bool [T, G]: LIBERO's own predicate
    subject_touched: np.ndarray  # bool [T, G]: the object, or the part that moves
    subject_distance: np.ndarray  # float [T, G], from the point between the fingertips to its surface
    away: np.ndarray  # float [T, G], sideways from a subject to its place; NaN of goals about joints
    parts: tuple[str, ...]  # joints of drawers, doors and knobs that no goal is about
    part_touched: np.ndarray  # bool [T, Q]
    part_moved: np.ndarray  # float [T, Q], share of the joint's range, from where it was
    progress: np.ndarray  # float [T, G], of a joint: 0 as it was, 1 where the predicate turns true; NaN of other goals


def milestones(trace: Trace) -> dict[str, Any]:
    """`objects`: of what was touched or moved, and of every subject; `goals`: of every goal, in order.

    `parts`: of drawers, doors and knobs that no goal is about, where the robot moved them.
    """
    subjects = {goal.subject for goal in trace.goals}
    objects = {name: _of_object(trace, index) for index, name in enumerate(trace.objects)}
    told = {n: o for n, o in objects.items() if n in subjects or o["touched"] is not None or o["moved"] is not None}
    parts = {name: _of_part(trace, index) for index, name in enumerate(trace.parts)}
    return {
        "objects": told,
        "goals": [_of_goal(trace, index) for index in range(len(trace.goals))],
        "parts": {n: p for n, p in parts.items() if p["touched"] is not None and p["moved"] is not None},
    }


def held(trace: Trace, index: int) -> np.ndarray:
    """Steps at which an object is in the hand: both pads at it for two steps, or lifted with the robot at it."""
    height = trace.position[:, index, 2]
    raised = height - height[0] > LIFTED_M
    return lasting(trace.grasped[:, index]) | (raised & trace.touched[:, index])


def _of_object(trace: Trace, index: int) -> dict[str, Any]:
    path, holding = trace.position[:, index], held(trace, index)
    distance = np.linalg.norm(path - path[0], axis=-1)
    releases = _releases(holding)
    falls = [_fall(path[:, 2], holding, step) for step in releases]
    own = [goal.subject == trace.objects[index] for goal in trace.goals]
    at_goal = np.any(trace.holds[:, own], axis=1)
    dropped = [s for s, fall in zip(releases, falls, strict=True) if fall > FELL_M and not np.any(at_goal[s:])]
    return {
        "touched": _first(trace.touched[:, index]),
        "grasped": _first(lasting(trace.grasped[:, index])),
        "lifted": _first(holding & (path[:, 2] - path[0, 2] > LIFTED_M)),
        "moved": _first(distance > MOVED_M),
        "dropped": dropped[0] if dropped else None,
        "let_go": releases[-1] if releases else None,
        "fell_m": round(falls[-1], 3) if falls else 0.0,  # after it was let go last
        "moved_m": round(float(distance[-1]), 3),
        "held": bool(holding[-1]),
    }


def _of_part(trace: Trace, index: int) -> dict[str, int | None]:
    return {
        "touched": _first(trace.part_touched[:, index]),
        "moved": _first(trace.part_moved[:, index] > PART_MOVED),
    }


def _releases(holding: np.ndarray) -> list[int]:
    """First steps at which it is no longer in the hand."""
    return [stop for _, stop in stretches(holding) if stop < len(holding)]


def _fall(height: np.ndarray, holding: np.ndarray, release: int) -> float:
    """How far it fell between a release and the next grasp."""
    again = np.flatnonzero(holding[release:])
    stop = release + int(again[0]) if len(again) else len(height)
    return max(0.0, float(height[release - 1] - height[release:stop].min()))


def _of_goal(trace: Trace, index: int) -> dict[str, Any]:
    goal, holds = trace.goals[index], trace.holds[:, index]
    told: dict[str, Any] = {
        "goal": " ".join(goal.words),
        "implied": index >= trace.stated,
        "first": _first(holds),
        "end": bool(holds[-1]),
        "touched": _first(trace.subject_touched[:, index]),
        "closest_m": round(float(trace.subject_distance[:, index].min()), 3),
    }
    if goal.places:
        away = trace.away[:, index]
        releases = _releases(held(trace, trace.objects.index(goal.subject)))
        return told | {
            "away_start_m": round(float(away[0]), 3),
            "away_let_go_m": round(float(away[releases[-1]]), 3) if releases else None,
            "away_end_m": round(float(away[-1]), 3),
        }
    progress = trace.progress[:, index]
    return told | {"progress_max": round(float(progress.max()), 3), "progress_end": round(float(progress[-1]), 3)}


def _first(flags: np.ndarray) -> int | None:
    return int(flags.argmax()) if flags.any() else None
