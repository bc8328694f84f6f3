"""Pick and place movable objects. Each skill is a generator of actions; see motion.py."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import GRIPPER_OPEN
from data_pipeline.sim.expert.geometry import UP
from data_pipeline.sim.expert.grasps import Grasp, GraspNotFound, find_grasp
from data_pipeline.sim.expert.motion import Hand, Motion
from data_pipeline.sim.expert.scene import CORRIDOR

_PICK_ATTEMPTS = 3
_LIFTED = 0.02  # metres: an object that rose by as much is held
_LIFT = 0.08  # metres
_SLIPPED = 0.04  # metres: an object that moved as far in the hand was lost
_NOTHING = np.zeros((0, 3))
_OVER_OBSTACLES = 0.08  # metres of the grip site above obstacles, empty
_UNDER_OBJECT = 0.03  # metres of a held object above obstacles
_CEILING_ABOVE_TABLE = 1.45  # metres: the arm reaches no higher
_CEILING_ABOVE_FLOOR = 0.75


class ExpertFailure(Exception):
    """The expert gives up; the message is the reason, named after what did not work."""


def pick(hand: Hand, name: str, failed: list[Grasp], keep_clear: np.ndarray = _NOTHING, lift: float = _LIFT) -> Motion:
    """Grasp an object and lift it by `lift` metres. Appends grasps that did not hold to `failed`.

    keep_clear: points [N, 3] that the grasping hand must not touch, besides what is in the scene.
    Raises ExpertFailure when no grasp is found or none holds.
    """
    for attempt in range(_PICK_ATTEMPTS):
        hand.gripper = GRIPPER_OPEN
        try:
            grasp = plan_grasp(hand, name, failed, keep_clear)
        except GraspNotFound:
            if attempt == _PICK_ATTEMPTS - 1:
                raise ExpertFailure(f"no free grasp of {name}") from None
            yield from hand.lift(0.05 * UP, None)
            continue
        height = hand.scene.position(name)[2]
        hand.phase = f"reach {name}"
        yield from _reach(hand, name, grasp)
        hand.phase = f"grasp {name}"
        yield from hand.close()
        hand.phase = f"lift {name}"
        yield from hand.lift(lift * UP, grasp.rotation, tolerance=0.02)
        if hand.scene.position(name)[2] - height > _LIFTED:
            return
        failed.append(grasp)
        hand.phase = f"retry {name}"
        yield from hand.open(4)
        yield from hand.lift(0.05 * UP, None)
    raise ExpertFailure(f"grasps of {name} do not hold")


def plan_grasp(hand: Hand, name: str, failed: list[Grasp], keep_clear: np.ndarray = _NOTHING) -> Grasp:
    """Best grasp of an object as it lies now. Raises GraspNotFound."""
    scene, origin = hand.scene, hand.scene.position(name)
    points = scene.object_points(name)
    obstacles = np.concatenate([scene.obstacle_points(name, origin), keep_clear])
    return find_grasp(points, obstacles, origin, hand.rest_yaw, hand.scene.shoulder, tuple(failed))


def _reach(hand: Hand, name: str, grasp: Grasp) -> Motion:
    across, up = hand.style.grasp
    goal, rotation = grasp.position + across * grasp.rotation[:, 1] + up * UP, grasp.rotation
    along, heights = hand.scene.corridor(name, hand.position, goal)
    if np.linalg.norm((goal - hand.position)[:2]) > 0.05:
        yield from hand.rise_to(float(max(heights, default=hand.position[2])) + _OVER_OBSTACLES)
    above = _lowest_end(along, heights + _OVER_OBSTACLES, hand.position, goal)
    above = max(goal[2] + hand.style.approach, above)
    waypoint = np.array([*goal[:2] + hand.style.sideways, above])
    yield from hand.go_to(waypoint, rotation, tolerance=0.03, angle=0.15)
    yield from hand.go_to(goal + 0.07 * UP, rotation, tolerance=0.012, angle=0.08, steps=60)
    yield from hand.go_to(goal + 0.035 * UP, rotation, tolerance=0.006, angle=0.06, steps=40, speed=0.7)
    yield from hand.go_to(goal, rotation, tolerance=0.004, steps=40, speed=0.5)


def _lowest_end(along: np.ndarray, needed: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Where a straight line from `start` may end above `end`, if it is to be `needed` high [N] where it is `along` [N].

    Never above `start`.
    """
    length = float(np.linalg.norm((end - start)[:2]))
    share = np.clip((along + CORRIDOR) / (length + 1e-9), 1e-3, 1)
    return min(float(start[2]), float(np.max(start[2] - (start[2] - needed) / share, initial=-np.inf)))


def place(hand: Hand, name: str, at: np.ndarray, support: float, release: float = 0.012) -> Motion:
    """Carry the held object so that its origin is above `at` (x, y), lower it, let go, retreat.

    It is let go when its lowest point is `release` metres above the height `support`. Ends early when it was lost.
    """
    rotation = hand.rotation
    hold = hand.scene.position(name) - hand.position
    yield from _carry(hand, name, at, support + release)
    if np.linalg.norm(hand.scene.position(name) - hand.position - hold) > _SLIPPED:
        return
    target, _ = _placing_pose(hand, name, at, support + release)
    over = np.array([*target[:2], hand.position[2]])
    yield from hand.go_to(over, rotation, tolerance=0.008, steps=40)
    target, _ = _placing_pose(hand, name, at, support + release)
    hand.phase = f"lower {name}"
    yield from hand.go_to(target + 0.04 * UP, rotation, tolerance=0.015, steps=60)
    yield from hand.go_to(target, rotation, tolerance=0.008, steps=40, speed=0.6)
    hand.phase = f"release {name}"
    yield from hand.open()
    hand.phase = f"retreat {name}"
    yield from hand.lift(0.12 * UP, rotation)
    yield from hand.wait(8)


def _carry(hand: Hand, name: str, at: np.ndarray, bottom: float) -> Motion:
    """Up, and over everything on the way, climbing while nothing is near."""
    rotation, start = hand.rotation, hand.position
    ceiling = _CEILING_ABOVE_TABLE if bottom > 0.6 else _CEILING_ABOVE_FLOOR
    target, low = _placing_pose(hand, name, at, bottom)
    along, heights = hand.scene.corridor(name, start, target)
    needed = heights + _UNDER_OBJECT - low
    top = min(max(float(np.max(needed, initial=start[2])), target[2] + 0.03), ceiling)
    before = min(float(np.max(needed - np.maximum(along - CORRIDOR, 0), initial=start[2])), top)
    yield from hand.rise_to(before, rotation)
    hand.phase = f"carry {name}"
    way = (target - hand.position)[:2]
    length = float(np.linalg.norm(way))
    climb = min(length, max(top - hand.position[2], 0.0))
    halfway = hand.position[:2] + way / (length + 1e-9) * climb + hand.style.sideways
    yield from hand.go_to(np.array([*halfway, top]), rotation, tolerance=0.03)
    yield from hand.go_to(np.array([*target[:2], top]), rotation, tolerance=0.02, steps=120)


def _placing_pose(hand: Hand, name: str, at: np.ndarray, bottom: float) -> tuple[np.ndarray, float]:
    """Hand position [3] that puts the object there, and its lowest point's height against the hand."""
    offset = hand.scene.position(name) - hand.position
    low = float(hand.scene.object_points(name)[:, 2].min() - hand.position[2])
    return np.array([*(np.asarray(at)[:2] - offset[:2]), bottom - low]), low
