"""What annotations.json says of an episode beside its reasoning: features, events, segments, goals. Pure.

Lists with an entry per step, or per episode where steps would only repeat it. Row t is before action t, so that what
the last action achieves is in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.contract import Episode
from data_pipeline.gripper_positions import future_visibility, to_grid
from data_pipeline.scene import SceneTrack
from data_pipeline.segments import Segment, grasps, joint_start, lifted_at, stretches


def measured(track: SceneTrack, segments: Sequence[Segment], subtasks: Sequence[str]) -> dict[str, Any]:
    """Of an episode that the simulator knows. subtasks: the words of each segment."""
    return {
        "state_3d": _rounded(track.grip_position),
        "gripper_position": to_grid(track.grip_point).tolist(),
        "gripper_visible": track.grip_visible.tolist(),
        "gripper_future_visible": future_visibility(track.grip_visible).tolist(),
        "events": [list(event) for event in events(track)],
        "segments": [
            {"start": s.start, "stop": s.stop, "kind": s.kind, "goal": s.goal, "subtask": text}
            for s, text in zip(segments, subtasks, strict=True)
        ],
        "goals": [
            {
                "predicate": goal.words,
                "implied": goal.implied,
                "holds": [list(run) for run in stretches(track.holds[:, g])],
            }
            for g, goal in enumerate(track.goals)
        ],
    }


def measured_by_the_robot(episode: Episode) -> dict[str, Any]:
    """Of an episode of which only the robot's own joints are known."""
    return {"state_3d": _rounded(episode.proprio[:, :3])}


def events(track: SceneTrack) -> list[tuple[int, str, str]]:
    """(step, what, thing), in order: grasp, lift and release of a thing, a joint starts, a predicate holds or no more.

    What holds at the first step is no event.
    """
    found: list[tuple[int, str, str]] = []
    for column, name in enumerate(track.names):
        for start, stop in grasps(track, column):
            found.append((start, "grasp", name))
            lift = lifted_at(track.position[start:stop, column])
            found += [(start + lift, "lift", name)] if lift < stop - start else []
            found += [(stop, "release", name)] if stop < track.num_steps else []
    for g, goal in enumerate(track.goals):
        start = joint_start(track, g)
        found += [] if start is None else [(start, "joint starts", goal.subject)]
        changes = np.flatnonzero(np.diff(track.holds[:, g])) + 1
        found += [(int(t), "holds" if track.holds[t, g] else "no longer holds", " ".join(goal.words)) for t in changes]
    return sorted(found)


def _rounded(positions: np.ndarray) -> list[list[float]]:
    return [[round(float(v), 4) for v in row] for row in positions]
