"""Names for what the hand does over the next 0.6 s: "move right down, rotate clockwise, close gripper". Pure.

The vocabulary is embodied-CoT's; the window is theirs in seconds (3 steps at 5 Hz), as 12 steps at 20 Hz: three steps
at 20 Hz would call half of a pick-and-place "stop". World axes: +x forward, +y left, +z up.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

MIN_MOVE_M = 0.01  # over the horizon, along one axis
MIN_SHARE = 0.4  # of the largest axis, for a further axis to be named
MIN_TURN_RAD = 0.12
FINGER_STILL_M = 5e-4  # change of the opening per step below which the fingers have stopped
MIN_GRIPPER_STEPS, MAX_GRIPPER_STEPS = 4, 12  # how long "close gripper" lasts after the command changes
HYSTERESIS_STEPS = 2  # a name that lasts shorter does not replace the one before it
MIN_WINDOW_STEPS = 3  # a shorter look ahead, at the end, repeats the last name

_MOVES = (("forward", "backward"), ("left", "right"), ("up", "down"))
# A hand that points down, turned about +x (forward), +y (left), +z (up): where its fingertips swing.
_TURNS = (
    ("tilt left", "tilt right"),
    ("tilt backward", "tilt forward"),
    ("rotate counterclockwise", "rotate clockwise"),
)
STOP = "stop"


def movement_primitives(
    position: np.ndarray, rotation: np.ndarray, command: np.ndarray, opening: np.ndarray, horizon: int
) -> list[str]:
    """One name per step.

    position: float [T, 3], m; rotation: float [T, 3, 3], hand to world; command: float [T], gripper, -1 open, +1 close;
    opening: float [T], m between the fingers; horizon: steps to look ahead.
    """
    end = np.minimum(np.arange(len(position)) + horizon, len(position) - 1)
    window = end - np.arange(len(position))
    scale = horizon / np.maximum(window, 1)[:, None]  # as if the window were whole
    shift = (position[end] - position) * scale
    body_turn = Rotation.from_matrix(rotation.swapaxes(-1, -2) @ rotation[end]).as_rotvec()
    turn = np.einsum("tij,tj->ti", rotation, body_turn) * scale  # the same rotation vector in world axes
    parts = [
        _steady(_repeat_last([_translation(v) for v in shift], window)),
        _steady(_repeat_last([_turning(v) for v in turn], window)),
        gripper_phases(command, opening),
    ]
    return [", ".join(filter(None, names)) or STOP for names in zip(*parts, strict=True)]


def directions(vector: np.ndarray, threshold: float, share: float = MIN_SHARE) -> list[str]:
    """Names of the axes along which float [3] is longer than threshold and than share of its largest component."""
    least = max(threshold, share * float(np.abs(vector).max()))
    return [names[0 if v > 0 else 1] for v, names in zip(vector, _MOVES, strict=True) if abs(v) >= least]


def gripper_phases(command: np.ndarray, opening: np.ndarray) -> list[str]:
    """Per step "close gripper", "open gripper" or "": from the change of the command until the fingers stop."""
    names = [""] * len(command)
    closing = command > 0
    speed = np.abs(np.diff(opening, append=opening[-1:]))
    for edge in np.flatnonzero(np.diff(closing.astype(int), prepend=int(opening_is_closed(opening)))):
        stop = edge + MIN_GRIPPER_STEPS
        while stop < min(edge + MAX_GRIPPER_STEPS, len(command)) and speed[stop] > FINGER_STILL_M:
            stop += 1
        for t in range(edge, min(stop, len(command))):
            names[t] = "close gripper" if closing[edge] else "open gripper"
    return names


def opening_is_closed(opening: np.ndarray) -> bool:
    """Whether the fingers start closed (they open to 0.08 m)."""
    return bool(opening[0] < 0.02)


def _translation(shift: np.ndarray) -> str:
    words = directions(shift, MIN_MOVE_M)
    return "move " + " ".join(words) if words else ""


def _turning(turn: np.ndarray) -> str:
    axis = int(np.argmax(np.abs(turn)))
    return _TURNS[axis][0 if turn[axis] > 0 else 1] if abs(turn[axis]) >= MIN_TURN_RAD else ""


def _repeat_last(names: list[str], window: np.ndarray) -> list[str]:
    whole = np.flatnonzero(window >= MIN_WINDOW_STEPS)
    last = int(whole[-1]) if len(whole) else 0
    return names[: last + 1] + [names[last]] * (len(names) - last - 1)


def _steady(names: list[str]) -> list[str]:
    """Hold a name until another has lasted HYSTERESIS_STEPS steps."""
    held = names[0]
    steady = []
    for t, name in enumerate(names):
        if name != held and all(later == name for later in names[t : t + HYSTERESIS_STEPS]):
            held = name
        steady.append(held)
    return steady
