"""Motion primitives: generators that look at the present state and yield the next action.

Actions are float64 [7] in [-1, 1], as the OSC_POSE controller takes them: position / 0.05 m, rotation vector /
0.5 rad (world frame), gripper -1 open / +1 close. No action is a no-op: see `_LEAST`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from data_pipeline.contract import GRIPPER_CLOSE, GRIPPER_OPEN
from data_pipeline.sim.expert.geometry import angle_between, pointing_down, rotation_vector
from data_pipeline.sim.expert.scene import Scene

Motion = Generator[np.ndarray, None, None]

_POSITION_UNIT = 0.05  # metres per unit of action
_ROTATION_UNIT = 0.5  # radians per unit of action
_GAIN = 1.6  # the controller lags behind its goal; ask for more than the error
_MAX_ROTATION = 0.6
_LEAST = 0.02
"""Smallest vertical action while the hand should stand still (1 mm): below 1e-4 a step counts as a no-op."""
_INSIST = 0.25  # how much more is asked for per step without progress: friction, or an elbow almost straight
_STALL_STEPS = 10
_STALL_PROGRESS = 1e-3
_CLOSING_STEPS = 6  # until the gripper's motors press in full
_FINGERS_STILL = 3e-4  # metres per step
_LOOSE = 0.012  # metres: who aims at a waypoint more exactly is about to grasp or to let go
_NEAR = 0.03  # metres to a waypoint: the end of a transit


@dataclass(frozen=True)
class Style:
    """What varies between demonstrations of one task."""

    speed: float = 1.0  # share of the fastest motion
    approach: float = 0.10  # metres above a grasp where the descent starts
    sideways: tuple[float, float] = (0.0, 0.0)  # metres, added to waypoints in free space
    grasp: tuple[float, float] = (0.0, 0.0)  # metres, added to a grasp across the fingers and in height

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float = 1.0) -> Style:
        """A moderate variation, within what a grasp tolerates; spread in [0, 1]: share of it, 0 gives Style()."""
        plain = cls()
        x, y = rng.uniform(-0.02, 0.02, 2) * spread
        across, up = rng.uniform(-0.003, 0.003) * spread, rng.uniform(-0.002, 0.002) * spread
        speed = rng.uniform(0.85, 1.0) * spread + plain.speed * (1 - spread)
        approach = rng.uniform(0.08, 0.13) * spread + plain.approach * (1 - spread)
        return cls(float(speed), float(approach), (float(x), float(y)), (float(across), float(up)))


class Hand:
    """Drives the hand of one scene. `gripper` is what every action says until it is changed; `phase` is what the next
    actions are for, in words that nothing here reads: a verb, then the name of the thing."""

    def __init__(self, scene: Scene, style: Style) -> None:
        self.scene = scene
        self.style = style
        self.gripper = GRIPPER_OPEN
        self.phase = ""
        self.in_transit = False  # the action that was yielded last may be disturbed: nothing is near the hand
        self.rest_rotation = pointing_down(scene.hand_rotation[:, 0])

    @property
    def rest_yaw(self) -> float:
        """Of the axis along which the fingers open at rest, radians in the world."""
        opening = self.rest_rotation[:, 0]
        return float(np.arctan2(opening[1], opening[0]))

    @property
    def position(self) -> np.ndarray:
        """Grip site, [3]."""
        return self.scene.hand_position

    @property
    def rotation(self) -> np.ndarray:
        """Grip site, [3, 3]."""
        return self.scene.hand_rotation

    def toward(
        self,
        target: np.ndarray,
        rotation: np.ndarray | None,
        speed: float = 1.0,
        rest: float = -1.0,
        insist: float = 1.0,
    ) -> np.ndarray:
        """One action towards a pose, `insist` times as far as usual as long as `speed` allows it.

        Where nothing is left to do it presses in the vertical direction `rest`.
        """
        move = _limited((target - self.position) / _POSITION_UNIT * _GAIN * insist, speed)
        turn = np.zeros(3)
        if rotation is not None:
            turn = _limited(rotation_vector(rotation @ self.rotation.T) / _ROTATION_UNIT * _GAIN, _MAX_ROTATION)
        if np.linalg.norm([*move, *turn]) < _LEAST:
            move[2] = rest * _LEAST
        return np.array([*move, *turn, self.gripper])

    def go_to(
        self,
        target: np.ndarray,
        rotation: np.ndarray | None = None,
        *,
        tolerance: float = 0.012,
        angle: float = 0.12,
        steps: int = 90,
        speed: float = 1.0,
        patient: bool = False,
        careful: bool = False,
    ) -> Motion:
        """Move until within `tolerance` metres and `angle` radians, at most `steps` actions.

        Gives up when no progress is made for half a second, unless `patient`. A loose waypoint that is still far is a
        transit, unless `careful`.
        """
        best, stalled = np.inf, 0
        for _ in range(steps):
            distance = float(np.linalg.norm(target - self.position))
            turn = 0.0 if rotation is None else angle_between(rotation, self.rotation)
            if distance < tolerance and turn < angle:
                return
            if distance + 0.1 * turn < best - _STALL_PROGRESS:
                best, stalled = distance + 0.1 * turn, 0
            else:
                stalled += 1
            if stalled > _STALL_STEPS and not patient:
                return
            self.in_transit = not careful and tolerance >= _LOOSE and distance > _NEAR
            yield self.toward(target, rotation, speed * self.style.speed, insist=1 + _INSIST * stalled)
            self.in_transit = False

    def rise_to(self, height: float, rotation: np.ndarray | None = None, tolerance: float = 0.03) -> Motion:
        """Straight up to a height; nothing when already there."""
        if self.position[2] < height - 0.02:
            yield from self.go_to(np.array([*self.position[:2], height]), rotation, tolerance=tolerance)

    def lift(self, by: np.ndarray, rotation: np.ndarray | None, tolerance: float = 0.03) -> Motion:
        """Move by an offset."""
        yield from self.go_to(self.position + by, rotation, tolerance=tolerance, careful=True)

    def close(self, steps: int = 15) -> Motion:
        """Close the fingers where the hand is, pressing lightly, until they no longer move."""
        self.gripper = GRIPPER_CLOSE
        last = np.inf
        for step, action in enumerate(self._hold(steps, rest=-1.0)):
            yield action
            if step > _CLOSING_STEPS and last - self.scene.opening < _FINGERS_STILL:
                return
            last = self.scene.opening

    def open(self, steps: int = 8) -> Motion:
        """Open the fingers where the hand is, yielding upwards lightly."""
        self.gripper = GRIPPER_OPEN
        yield from self._hold(steps, rest=1.0)

    def wait(self, steps: int) -> Motion:
        """Drift upwards slowly while the scene comes to rest."""
        for _ in range(steps):
            yield np.array([0.0, 0.0, _LEAST, 0.0, 0.0, 0.0, self.gripper])

    def _hold(self, steps: int, rest: float) -> Motion:
        position, rotation = self.position, self.rotation
        for _ in range(steps):
            yield self.toward(position, rotation, rest=rest)


def _limited(vector: np.ndarray, largest: float) -> np.ndarray:
    peak = np.abs(vector).max()
    return vector * (largest / peak) if peak > largest else vector
