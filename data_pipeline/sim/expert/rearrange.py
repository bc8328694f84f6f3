"""Clear the way: an object that an opened drawer would hide is first put where it can still be grasped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.sim.expert.geometry import UP, distance_to_segment
from data_pipeline.sim.expert.grasps import TIGHT, Grasp, GraspNotFound, find_grasp
from data_pipeline.sim.expert.motion import Hand, Motion
from data_pipeline.sim.expert.skills import pick

_TRAVEL = 0.16  # metres that a drawer opens
_STEP = 0.015  # metres between the places tried
_FARTHEST = 0.15
_MARGIN = 0.012  # metres between what is moved and everything else
_SAFE = 0.75  # largest cost of a grasp worth moving an object for
_SEARCHES = (TIGHT,)
_INEXACT = 0.02  # metres by which a move may fall short
_ABOVE_TABLE = 0.004
_LIFT = 0.07  # metres; held by its rim it tilts and rises less
_CARRY = 0.05  # metres above where it stood


def clear_drawer(hand: Hand, name: str, joint: int, failed: list[Grasp]) -> Motion:
    """Put `name` aside if no good grasp of it would be left under the opened drawer."""
    scene = hand.scene
    opened = scene.moving_points(joint) + scene.slider(joint).outwards * _TRAVEL
    origin, points = scene.position(name), scene.object_points(name)
    obstacles = scene.obstacle_points(name, origin)
    obstacles = obstacles[obstacles[:, 2] > points[:, 2].min() + _ABOVE_TABLE]
    best, around, chosen = np.inf, obstacles, np.zeros(3)
    for shift in _free_shifts(origin, points, obstacles):
        there = obstacles - shift
        moving = np.concatenate([obstacles, there])  # the hand that holds it, here and there
        nearer = opened - shift * (1 - _INEXACT / max(float(np.linalg.norm(shift)), _INEXACT))
        afterwards = np.concatenate([there, opened - shift, nearer])
        cost = _grasp_cost(hand, points, afterwards, origin)
        if cost < best:  # most places fail already
            cost = max(cost, _grasp_cost(hand, points, moving, origin))
        if cost < best:
            best, around, chosen = cost, moving, shift
        if best < _SAFE:
            break
    if chosen.any():
        yield from pick(hand, name, failed, keep_clear=around, lift=_LIFT)
        yield from _set_down(hand, name, origin + chosen)


def _free_shifts(origin: np.ndarray, points: np.ndarray, obstacles: np.ndarray) -> Iterator[np.ndarray]:
    """Horizontal displacements [3] to free places, nothing tall in between; nearest first, none at all before them."""
    axis = np.arange(-_FARTHEST, _FARTHEST + 1e-9, _STEP).round(9)
    every = np.stack([*np.meshgrid(axis, axis, indexing="ij"), np.zeros((len(axis), len(axis)))], -1).reshape(-1, 3)
    radius = float(np.linalg.norm((points - origin)[:, :2], axis=1).max()) + _MARGIN
    bottom, top = points[:, 2].min(), points[:, 2].max()
    beside = obstacles[obstacles[:, 2] < top]
    at_start = np.linalg.norm((beside - origin)[:, :2], axis=1)
    tall = obstacles[(obstacles[:, 2] > bottom + _CARRY - _ABOVE_TABLE) & (obstacles[:, 2] < top + _CARRY)]
    for shift in every[np.argsort(np.linalg.norm(every, axis=1), kind="stable")]:
        at_end = np.linalg.norm((beside - origin - shift)[:, :2], axis=1)
        crowded = (at_end < radius) & (at_end < at_start - 1e-3)  # a neighbour may stay one
        if not crowded.any() and not (distance_to_segment(tall, origin, origin + shift) < radius).any():
            yield shift


def _grasp_cost(hand: Hand, points: np.ndarray, obstacles: np.ndarray, origin: np.ndarray) -> float:
    try:
        return find_grasp(points, obstacles, origin, hand.rest_yaw, hand.scene.shoulder, searches=_SEARCHES).cost
    except GraspNotFound:
        return np.inf


def _set_down(hand: Hand, name: str, origin: np.ndarray) -> Motion:
    """Carry the held object close to the table until its origin is there, let go, retreat."""
    hand.phase = f"carry {name}"
    over = origin + _CARRY * UP + hand.position - hand.scene.position(name)
    yield from hand.go_to(over, hand.rotation, tolerance=0.01, steps=40)
    hand.phase = f"lower {name}"
    yield from hand.go_to(over - _CARRY * UP, hand.rotation, tolerance=0.008, steps=20, speed=0.6)
    hand.phase = f"release {name}"
    yield from hand.open(5)
    hand.phase = f"retreat {name}"
    yield from hand.lift(0.08 * UP, hand.rotation)
