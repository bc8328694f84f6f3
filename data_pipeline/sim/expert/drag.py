"""Drag a plate over the table by its rim, around what lies in its way. The skill is a generator of actions.

The fingers close across the rim on the side where the plate should go, so that it follows as a trailer does.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import GRIPPER_OPEN
from data_pipeline.sim.expert.geometry import UP, distance_to_segment, nearest_rotation, pointing_down
from data_pipeline.sim.expert.motion import Hand, Motion
from data_pipeline.sim.expert.scene import Region, Scene
from data_pipeline.sim.expert.skills import ExpertFailure

_ATTEMPTS = 3
_INSIDE_EDGE = 0.016  # metres from the plate's edge to the middle of the fingers
_GRIP_HEIGHT = 0.017  # metres above the plate's underside: the fingertips just clear the table
_THERE, _AT_BEND = 0.010, 0.025  # metres
_PULL_STEPS = 90
_LEAD = 0.024  # metres by which the hand aims ahead: so little that the whole error in height is corrected too
_SLIPPED = 0.03  # metres: the plate has not followed
_MARGIN = 0.010  # metres kept between the plate and other things
_REACH = 0.72  # metres from the robot's base to a bend: farther out the arm is stretched and the hand rises
_GRID = 0.025  # metres between the bends that are considered
_DETOUR = 0.15  # metres: a bend lies no farther outside the straight way
_OVERLAP_COST = 3.0  # metres of way that a metre of overlap with one point (1 cm apart) of an obstacle is worth
_ABOVE_TABLE, _SAME_HEIGHT = 0.004, 0.05  # metres above the plate's underside: what lies between is in the way


def drag(hand: Hand, name: str, to: Region) -> Motion:
    """Drag a plate to a place on the table. Looks again and takes a new hold where it slipped away or stopped.

    Raises ExpertFailure when it does not get there.
    """
    scene = hand.scene
    for _ in range(_ATTEMPTS):
        bend, end = find_way(scene, name, to)
        yield from _hold_rim(hand, name, end - scene.position(name)[:2])
        hand.phase = f"drag {name}"
        yield from _pull(hand, name, bend, _AT_BEND)
        yield from _pull(hand, name, end, _THERE)
        hand.phase = f"release {name}"
        yield from hand.open(6)
        hand.phase = f"retreat {name}"
        yield from hand.lift(0.10 * UP, None)
        if (np.abs(scene.position(name) - to.centre)[:2] < to.extent[:2]).all():
            return
    short = np.linalg.norm((scene.position(name) - to.centre)[:2])
    raise ExpertFailure(f"{name} was not dragged to its place: {100 * short:.0f} cm short")


def find_way(scene: Scene, name: str, to: Region) -> tuple[np.ndarray, np.ndarray]:
    """A bend within reach and an end within the place, [2] each: the short way on which the plate meets least."""
    origin, points = scene.position(name), scene.object_points(name)
    reach = float(np.linalg.norm((points - origin)[:, :2], axis=1).max()) + _MARGIN
    obstacles = scene.obstacle_points(name, (origin + to.centre) / 2)
    height = obstacles[:, 2] - points[:, 2].min()
    obstacles = obstacles[(height > _ABOVE_TABLE) & (height < _SAME_HEIGHT)]
    obstacles = np.unique(obstacles[:, :2].round(2), axis=0)

    def leg(start: np.ndarray, end: np.ndarray) -> float:
        overlap = np.maximum(reach - distance_to_segment(obstacles, start, end), 0).sum()
        return float(np.linalg.norm(end - start) + _OVERLAP_COST * overlap)

    ends = to.centre[:2] + _grid(-to.extent[:2] / 2, to.extent[:2] / 2, to.extent[:2].min() / 2)
    low, high = np.minimum(origin, to.centre)[:2] - _DETOUR, np.maximum(origin, to.centre)[:2] + _DETOUR
    best, way = np.inf, (ends[0], ends[0])
    bends = _grid(low, high, _GRID)
    bends = bends[np.linalg.norm(bends - scene.base[:2], axis=1) < _REACH]
    for bend in np.concatenate([ends, bends]):
        to_bend = leg(origin[:2], bend)
        for end in ends:
            if to_bend < best and (cost := to_bend + leg(bend, end)) < best:
                best, way = cost, (bend, end)
    return way


def _grid(low: np.ndarray, high: np.ndarray, spacing: float) -> np.ndarray:
    """Points [N, 2] from corner to corner."""
    xs, ys = (np.arange(low[i], high[i] + 1e-9, spacing) for i in range(2))
    return np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2)


def _hold_rim(hand: Hand, name: str, path: np.ndarray) -> Motion:
    """Close the fingers across the rim on the side that `path` [2] points to."""
    origin, points = hand.scene.position(name), hand.scene.object_points(name)
    ahead = path / np.linalg.norm(path)
    edge = float(np.max((points - origin)[:, :2] @ ahead))
    outwards = np.array([*ahead, 0.0])
    rotation = nearest_rotation([pointing_down(outwards), pointing_down(-outwards)], hand.rotation)
    grip = np.array([*(origin[:2] + ahead * (edge - _INSIDE_EDGE)), points[:, 2].min() + _GRIP_HEIGHT])
    above = grip + UP * hand.style.approach + np.array([*hand.style.sideways, 0.0])
    hand.gripper = GRIPPER_OPEN
    hand.phase = f"reach {name}"
    yield from hand.go_to(above, rotation, tolerance=0.03, angle=0.2, steps=100)
    yield from hand.go_to(grip + UP * 0.03, rotation, tolerance=0.010, angle=0.1, steps=50)
    yield from hand.go_to(grip, rotation, tolerance=0.004, steps=30, speed=0.6)
    hand.phase = f"grasp {name}"
    yield from hand.close()


def _pull(hand: Hand, name: str, to: np.ndarray, tolerance: float) -> Motion:
    """Move until the plate is within `tolerance` of `to` [2]; stop where it does not follow."""
    scene, rotation, height = hand.scene, hand.rotation, hand.position[2]
    held = np.linalg.norm((hand.position - scene.position(name))[:2])
    for _ in range(_PULL_STEPS):
        error = to - scene.position(name)[:2]
        distance = float(np.linalg.norm(error))
        offset = np.linalg.norm((hand.position - scene.position(name))[:2])
        if distance < tolerance or abs(offset - held) > _SLIPPED:
            return
        ahead = hand.position[:2] + error * min(1.0, _LEAD / distance)
        yield hand.toward(np.array([*ahead, height]), rotation, speed=1.0)
