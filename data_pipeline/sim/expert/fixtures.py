"""Operate fixtures: drawers and the stove's knob. Each skill is a generator of actions; see motion.py."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import GRIPPER_CLOSE, GRIPPER_OPEN
from data_pipeline.sim.expert.geometry import UP, nearest_rotation, pointing, pointing_down, rotation_z
from data_pipeline.sim.expert.motion import Hand, Motion
from data_pipeline.sim.expert.skills import ExpertFailure

_DRAWER_OPEN = 0.14  # metres
_DRAWER_WIDE_OPEN = 0.15
_PULL_SLACK = 0.03  # metres by which the hand may go farther than the drawer
_PULL_STEPS = 60
_KNOB_ON = 0.75  # radians, past LIBERO's threshold of 0.5
_KNOB_STEP = 0.2


def open_drawer(hand: Hand, region: str) -> Motion:
    """Grasp the handle with a pitched hand and pull; other pitches when the drawer did not come.

    Raises ExpertFailure when it does not open.
    """
    joint = hand.scene.joint_of_region(region)
    pitches = (25, 10, 50) if "top" in region else (10, 25, 50)
    for pitch in pitches:
        yield from _pull_handle(hand, region, np.deg2rad(pitch))
        if abs(hand.scene.joint_value(joint)) > _DRAWER_OPEN:
            return
    raise ExpertFailure(f"{region} did not open: {100 * abs(hand.scene.joint_value(joint)):.1f} cm")


def _pull_handle(hand: Hand, region: str, pitch: float) -> Motion:
    joint = hand.scene.joint_of_region(region)
    drawer = hand.scene.slider(joint)
    rotation = facing(drawer.outwards, pitch, hand)
    back, handle, outwards = -rotation[:, 2], drawer.handle, drawer.outwards
    before = handle + outwards * 0.10 + UP * 0.10 + np.array([*hand.style.sideways, 0.0])
    hand.gripper = GRIPPER_OPEN
    hand.phase = f"reach {region}"
    yield from hand.go_to(before, rotation, tolerance=0.05, angle=0.4, steps=120)
    yield from hand.go_to(handle + back * 0.06, rotation, tolerance=0.02, angle=0.12, steps=80)
    yield from hand.go_to(handle - back * 0.002, rotation, tolerance=0.008, steps=40, speed=0.6)
    hand.phase = f"grasp {region}"
    yield from hand.close()
    hand.phase = f"open {region}"
    yield from _pull(hand, joint, outwards, rotation)
    hand.phase = f"release {region}"
    yield from hand.open(4)
    hand.phase = f"retreat {region}"
    yield from hand.lift(back * 0.12 + UP * 0.06, rotation)


def _pull(hand: Hand, joint: int, outwards: np.ndarray, rotation: np.ndarray) -> Motion:
    """Draw the drawer out until it is open or the hand has gone farther than that."""
    way = _DRAWER_WIDE_OPEN - abs(hand.scene.joint_value(joint)) + _PULL_SLACK
    start = hand.position
    for _ in range(_PULL_STEPS):
        gone = (hand.position - start) @ outwards
        if abs(hand.scene.joint_value(joint)) > _DRAWER_WIDE_OPEN or gone > way:
            return
        yield hand.toward(start + outwards * (gone + 0.06), rotation, speed=hand.style.speed)


def close_drawer(hand: Hand, region: str) -> Motion:
    """Push the front with closed fingers; steeper first, as there is room above an open drawer."""
    joint = hand.scene.joint_of_region(region)
    low, _ = hand.scene.model.jnt_range[joint]
    hand.gripper = GRIPPER_CLOSE
    hand.phase = f"reach {region}"
    handle = hand.scene.slider(joint).handle
    over = np.array([*hand.position[:2], max(hand.position[2], handle[2] + 0.22)])
    yield from hand.go_to(over, hand.rest_rotation, tolerance=0.04, angle=0.3)
    for pitch in (40, 25, 55):
        hand.phase = f"reach {region}"
        yield from _push_front(hand, region, np.deg2rad(pitch), inwards=float(np.sign(-low)))
        if hand.scene.joint_value(joint) > -0.001:
            break
    hand.phase = f"retreat {region}"
    yield from hand.lift(hand.scene.slider(joint).outwards * 0.06 + UP * 0.1, hand.rotation)


def _push_front(hand: Hand, region: str, pitch: float, inwards: float) -> Motion:
    joint = hand.scene.joint_of_region(region)
    drawer = hand.scene.slider(joint)
    outwards, rotation = drawer.outwards, facing(drawer.outwards, pitch, hand, flat=True)
    before = drawer.handle + outwards * 0.12 + UP * 0.16
    yield from hand.go_to(before, rotation, tolerance=0.05, angle=0.3, steps=60, patient=True)
    yield from hand.go_to(drawer.handle + outwards * 0.05 + UP * 0.004, rotation, tolerance=0.015, angle=0.15, steps=60)
    hand.phase = f"close {region}"
    for _ in range(45):
        aside = hand.scene.slider(joint).handle - hand.position
        aside -= outwards * (aside @ outwards)
        yield hand.toward(hand.position - outwards * 0.06 + aside, rotation, speed=0.8)
        if hand.scene.joint_value(joint) * inwards > 0.004:
            return


def turn_knob(hand: Hand, fixture: str) -> Motion:
    """Grasp the knob's ridge from above and turn it in small steps of yaw."""
    joint = hand.scene.joint_of_object(fixture)
    axis = hand.scene.data.xanchor[joint].copy()
    points = hand.scene.moving_points(joint)
    top = points[:, 2].max()
    ridge = points[points[:, 2] > top - 0.012]
    spread = ridge[:, :2] - ridge[:, :2].mean(axis=0)
    thin = np.array([*np.linalg.svd(spread, full_matrices=False)[2][1], 0.0])
    rotation = nearest_rotation([pointing_down(thin), pointing_down(-thin)], hand.rotation)
    centre = np.array([*ridge[:, :2].mean(axis=0), top - 0.008])
    hand.gripper = GRIPPER_OPEN
    hand.phase = f"reach {fixture}"
    above = centre + UP * hand.style.approach + np.array([*hand.style.sideways, 0.0])
    yield from hand.go_to(above, rotation, tolerance=0.03, steps=120)
    yield from hand.go_to(centre + UP * 0.03, rotation, tolerance=0.01, steps=50)
    yield from hand.go_to(centre, rotation, tolerance=0.006, steps=30, speed=0.4)
    hand.phase = f"grasp {fixture}"
    yield from hand.close(8)
    hand.phase = f"turnon {fixture}"
    yield from _twist(hand, joint, np.array([*axis[:2], centre[2]]), centre, rotation)
    hand.phase = f"release {fixture}"
    yield from hand.open(5)
    hand.phase = f"retreat {fixture}"
    yield from hand.lift(0.12 * UP, None)


def _twist(hand: Hand, joint: int, axis: np.ndarray, centre: np.ndarray, rotation: np.ndarray) -> Motion:
    for step in range(1, 9):
        turn = rotation_z(_KNOB_STEP * step)
        for _ in range(4):
            yield hand.toward(axis + turn @ (centre - axis), turn @ rotation)
        if hand.scene.joint_value(joint) > _KNOB_ON:
            return


def facing(outwards: np.ndarray, pitch: float, hand: Hand, *, flat: bool = False) -> np.ndarray:
    """Hand that points against `outwards`, tilted down by `pitch` (0 horizontal).

    `flat`: it opens sideways and is thin in height; otherwise it opens in the vertical plane.
    """
    direction = -outwards * np.cos(pitch) - UP * np.sin(pitch)
    across = np.cross(outwards, UP)
    opening = across if flat else np.cross(across, direction)
    candidates = [pointing(direction, sign * opening) for sign in (1, -1)]
    return nearest_rotation(candidates, hand.rotation)
