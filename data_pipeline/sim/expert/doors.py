"""A fixture with a hinged door: put a mug behind it, held by its handle, and push the door shut.

Each skill is a generator of actions; see motion.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.contract import GRIPPER_CLOSE, GRIPPER_OPEN
from data_pipeline.sim.expert.fixtures import facing
from data_pipeline.sim.expert.geometry import UP
from data_pipeline.sim.expert.motion import Hand, Motion
from data_pipeline.sim.expert.scene import Scene
from data_pipeline.sim.expert.skills import ExpertFailure

_SHUT = 0.005  # radians: LIBERO's threshold for a microwave
_LEAD = 0.30  # radians by which a pushing hand aims ahead of the door
_PUSH_STEPS = 120
_GRIP_BELOW_TOP = 0.03  # metres: the grip site is so far down the door, the palm stays above it
_PITCHES = (45, 55, 35)  # degrees, of the hand that holds the handle
_BAR = 0.012  # metres: depth of the part of a mug that sticks out farthest, its handle's bar
_LIFTED = 0.02
_ABOVE_FLOOR = 0.010  # metres between the mug and the floor while it is slid in
_FRONT = 0.20  # metres before its place, where the mug is in front of the fixture
_CLEAR_OF_LEAF = 0.05  # metres away from the hinge on the way there: a door that is half shut leans in
_FORWARD = 0.018  # metres from the middle of the region towards the door: the hand stays outside


def close_door(hand: Hand, fixture: str) -> Motion:
    """Push the door along its arc with closed fingers from above. Raises ExpertFailure when it stays open."""
    scene = hand.scene
    joint = scene.joint_of_object(fixture)
    hand.gripper = GRIPPER_CLOSE
    for along in (0.05, 0.0, 0.08):
        yield from _push_door(hand, fixture, along)
        if abs(scene.joint_value(joint)) < _SHUT:
            return
    raise ExpertFailure(f"the door of {fixture} did not close: {abs(scene.joint_value(joint)):.2f} rad open")


def _push_door(hand: Hand, fixture: str, along: float) -> Motion:
    scene, rotation = hand.scene, hand.rest_rotation
    joint = scene.joint_of_object(fixture)
    start = scene.door(fixture).before(0.07, along) - UP * _GRIP_BELOW_TOP
    above = start[2] + 0.12 + hand.style.approach
    hand.phase = f"reach {fixture}"
    yield from hand.rise_to(above, rotation)
    yield from hand.go_to(np.array([*start[:2], above]), rotation, tolerance=0.04, angle=0.3, steps=100)
    yield from hand.go_to(start, rotation, tolerance=0.02, angle=0.15, steps=60)
    hand.phase = f"close {fixture}"
    for _ in range(_PUSH_STEPS):
        door = scene.door(fixture)
        ahead = door.turned(door.before(0.02, along) - UP * _GRIP_BELOW_TOP, _LEAD)
        yield hand.toward(ahead, rotation, speed=hand.style.speed)
        if abs(scene.joint_value(joint)) < _SHUT / 2:
            return


@dataclass(frozen=True)
class _Place:
    """Where an object comes to stand behind a door."""

    at: np.ndarray  # [3], on the floor
    outwards: np.ndarray  # [3] unit vector, horizontal: out of the opening
    away: np.ndarray  # [3] unit vector, horizontal: from the hinge's side to the other


def put_behind_door(hand: Hand, name: str, where: str) -> Motion:
    """Take a mug by its handle with a pitched hand, slide it in, let go, draw back.

    Raises ExpertFailure when the handle cannot be held.
    """
    yield from _take_handle(hand, name)
    place = _place_behind(hand.scene, name, where)
    turned = facing(place.outwards, np.deg2rad(_PITCHES[0]), hand, flat=True)
    held = hand.rotation.T @ (hand.scene.position(name) - hand.position)
    low = hand.scene.position(name)[2] - hand.scene.object_points(name)[:, 2].min()
    goal = place.at + UP * (low + _ABOVE_FLOOR) - turned @ held
    front = goal + place.outwards * _FRONT + place.away * _CLEAR_OF_LEAF
    hand.phase = f"carry {name}"
    yield from hand.go_to(front, turned, tolerance=0.015, angle=0.08, steps=100)
    yield from hand.go_to(goal, turned, tolerance=0.008, steps=60, speed=0.7)
    hand.phase = f"lower {name}"
    yield from hand.go_to(goal - UP * _ABOVE_FLOOR, turned, tolerance=0.006, steps=20, speed=0.5)
    hand.phase = f"release {name}"
    yield from hand.open(6)
    hand.phase = f"retreat {name}"
    yield from hand.lift(place.outwards * 0.12 + UP * 0.03, turned)


def _take_handle(hand: Hand, name: str) -> Motion:
    scene = hand.scene
    for pitch in _PITCHES:
        bar, outwards = _handle(scene, name)
        rotation = facing(outwards, np.deg2rad(pitch), hand, flat=True)
        back, height = -rotation[:, 2], scene.position(name)[2]
        hand.gripper = GRIPPER_OPEN
        hand.phase = f"reach {name}"
        aside = np.array([*hand.style.sideways, 0.0])
        yield from hand.go_to(bar + back * (0.06 + hand.style.approach) + aside, rotation, tolerance=0.03, angle=0.3)
        yield from hand.go_to(bar + back * 0.04, rotation, tolerance=0.010, angle=0.08, steps=60)
        yield from hand.go_to(bar, rotation, tolerance=0.005, steps=40, speed=0.5)
        hand.phase = f"grasp {name}"
        yield from hand.close()
        hand.phase = f"lift {name}"
        yield from hand.lift(UP * 0.07, rotation, tolerance=0.02)
        if scene.position(name)[2] - height > _LIFTED:
            return
        hand.phase = f"retry {name}"
        yield from hand.open(4)
        yield from hand.lift(back * 0.06, rotation)
    raise ExpertFailure(f"the handle of {name} does not hold")


def _handle(scene: Scene, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the handle's bar [3], and the direction [3] in which it sticks out."""
    points = scene.object_points(name)
    middle = points.mean(axis=0)  # nearly the cup's axis; the origin is the middle of cup and handle together
    distance = np.linalg.norm((points - middle)[:, :2], axis=1)
    bar = points[distance > distance.max() - _BAR].mean(axis=0)
    outwards = np.array([*(bar - middle)[:2], 0.0])
    return bar, outwards / np.linalg.norm(outwards)


def _place_behind(scene: Scene, name: str, where: str) -> _Place:
    """The middle between the side walls, `_FORWARD` before the middle of the region."""
    region, door = scene.region(where), scene.door(scene.owner(where))
    outwards = door.outwards_when_shut
    across = np.cross(outwards, UP)
    away = across * np.sign(across @ (region.centre - door.anchor))
    points = scene.obstacle_points(name, region.centre) - region.centre
    behind = np.abs(points @ outwards) < region.extent @ np.abs(outwards) * 0.8
    floor = points[behind & (np.abs(points @ across) < 0.03) & (points[:, 2] < 0), 2].max()
    sides = points[behind & (np.abs(points[:, 2]) < 0.04)] @ across
    middle = (sides[sides > 0].min() + sides[sides < 0].max()) / 2
    return _Place(region.centre + across * middle + UP * floor + outwards * _FORWARD, outwards, away)
