"""Drag a plate over the table. The skill is a generator of actions; see motion.py."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import GRIPPER_CLOSE
from data_pipeline.sim.expert.geometry import UP
from data_pipeline.sim.expert.motion import Hand, Motion


def drag(hand: Hand, name: str, to: np.ndarray) -> Motion:
    """Drag a plate over the table to `to` (x, y): closed fingertips inside it, pressed against the inner rim."""
    for _ in range(3):
        origin = hand.scene.position(name)
        path = np.asarray(to)[:2] - origin[:2]
        length = float(np.linalg.norm(path))
        if length < 0.012:
            return
        points = hand.scene.object_points(name)
        radius = float(np.max((points - origin)[:, :2] @ (path / length)))
        start = origin[:2] + path / length * (radius - 0.055)
        yield from _press_into(hand, start, origin[2] + 0.013, above=float(points[:, 2].max()) + 0.12)
        yield from _pull(hand, name, to, origin[2] + 0.007)
        yield from hand.lift(0.10 * UP, hand.rest_rotation)


def _press_into(hand: Hand, start: np.ndarray, height: float, above: float) -> Motion:
    rotation = hand.rest_rotation
    hand.gripper = GRIPPER_CLOSE
    yield from hand.go_to(np.array([*hand.position[:2], max(hand.position[2], above)]), rotation, tolerance=0.05)
    yield from hand.go_to(np.array([*start, above]), rotation, tolerance=0.02, steps=100)
    yield from hand.go_to(np.array([*start, height]), rotation, tolerance=0.006, steps=60)


def _pull(hand: Hand, name: str, to: np.ndarray, height: float) -> Motion:
    for _ in range(90):
        error = np.asarray(to)[:2] - hand.scene.position(name)[:2]
        distance = float(np.linalg.norm(error))
        if distance < 0.015:
            return
        ahead = hand.position[:2] + error / distance * 0.03
        yield hand.toward(np.array([*ahead, height]), hand.rest_rotation, speed=0.5)
