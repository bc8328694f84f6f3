"""Reasoning of a recording whose simulator states are unknown: what follows from the instruction and the robot's own
joints, and nothing else. Plan, subtask, boxes and pixels would need the scene: they are absent. Pure.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from configs.choices import Component
from data_pipeline.contract import Annotation, Episode, StepReasoning
from data_pipeline.ecot_words import offset_phrase
from data_pipeline.primitive_movements import movement_primitives

UNKNOWN = "absent: no simulator states"
ABSENT = frozenset(Component) - {Component.TASK, Component.MOVE_REASONING, Component.MOVE}
SOURCE = dict.fromkeys(("plan", "visible_objects", "subtask_reasoning", "subtask", "gripper"), UNKNOWN) | {
    "task": "instruction",
    "move_reasoning": "proprioception",
    "move": "proprioception",
}


def annotate_recording(episode: Episode, move_horizon: int) -> Annotation:
    """The task, and per step the movement and where the fingers close or open next. move_horizon: as of `annotate`."""
    position = episode.proprio[:, :3].astype(float)
    rotation = Rotation.from_rotvec(episode.proprio[:, 3:6].astype(float)).as_matrix()
    opening = (episode.proprio[:, 6] - episode.proprio[:, 7]).astype(float)
    command = episode.actions[:, -1].astype(float)
    moves = movement_primitives(position, rotation, command, opening, move_horizon)
    steps = tuple(
        StepReasoning(
            task=episode.instruction,
            plan="",
            visible_objects=(),
            subtask_reasoning="",
            subtask="",
            move_reasoning=reason,
            move=move,
            gripper=(),
            absent=ABSENT,
        )
        for move, reason in zip(moves, _reasons(position, command), strict=True)
    )
    return Annotation(episode.id, steps, SOURCE)


def _reasons(position: np.ndarray, command: np.ndarray) -> list[str]:
    """Per step, where the fingers next close or open. position: float [T, 3], m; command: float [T], -1 open, +1 close.

    The place is that of a later step, as a plan's would be.
    """
    closing = command > 0
    changes = np.flatnonzero(np.diff(closing)) + 1
    reasons = []
    for step in range(len(command)):
        ahead = changes[changes >= step]
        if not len(ahead):
            reasons.append(f"the fingers stay {'closed' if closing[step] else 'open'}")
            continue
        verb = "close" if closing[ahead[0]] else "open"
        offset = offset_phrase(position[ahead[0]] - position[step])
        reasons.append(f"the fingers {verb} {offset or 'here'}")
    return reasons
