"""Movement primitives and gripper points: axes, thresholds, hysteresis, the end of an episode, projection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_pipeline.gripper_positions import FUTURE_STEPS, future_track, is_visible, project, to_grid
from data_pipeline.primitive_movements import STOP, directions, gripper_phases, movement_primitives

STEPS, HORIZON = 40, 12


def primitives(velocity: np.ndarray, turn: np.ndarray | None = None, steps: int = STEPS) -> list[str]:
    """Of a hand that points down and moves by velocity [3] and turns by the world rotation vector `turn` per step."""
    time = np.arange(steps)[:, None]
    spin = Rotation.from_rotvec(time * (np.zeros(3) if turn is None else turn))
    rotation = (spin * Rotation.from_euler("x", np.pi)).as_matrix()
    return movement_primitives(time * velocity, rotation, -np.ones(steps), np.full(steps, 0.08), HORIZON)


@pytest.mark.parametrize(
    ("velocity", "name"),
    [
        ([1, 0, 0], "move forward"),
        ([-1, 0, 0], "move backward"),
        ([0, 1, 0], "move left"),
        ([0, -1, 0], "move right"),
        ([0, 0, 1], "move up"),
        ([0, 0, -1], "move down"),
        ([1, 0.8, 0.1], "move forward left"),
        ([0, -0.7, -1], "move right down"),
    ],
)
def test_every_axis_has_its_name_to_the_last_step(velocity: list[float], name: str) -> None:
    assert primitives(0.004 * np.array(velocity)) == [name] * STEPS


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        ([0, 0, 1], "rotate counterclockwise"),
        ([0, 0, -1], "rotate clockwise"),
        ([1, 0, 0], "tilt left"),
        ([0, 1, 0], "tilt backward"),
    ],
)
def test_turns_are_named_in_the_world(turn: list[float], name: str) -> None:
    assert primitives(np.zeros(3), 0.02 * np.array(turn))[0] == name


def test_tilts_say_where_the_fingertips_swing() -> None:
    """A hand pointing down, turned a little about +x, points left; about +y, backward."""
    for axis, direction in (([1, 0, 0], [0, 1, 0]), ([0, 1, 0], [-1, 0, 0])):
        tip = Rotation.from_rotvec(0.1 * np.array(axis)).apply([0, 0, -1])
        assert np.dot(tip, direction) > 0.05


def test_standing_still_is_stop_and_slow_motion_is_not() -> None:
    assert primitives(np.zeros(3)) == [STOP] * STEPS
    assert primitives(np.array([0.001, 0, 0]))[0] == "move forward"  # 2 cm/s


def test_under_a_tenth_of_a_smooth_motions_moving_steps_is_stop() -> None:
    time = np.linspace(0, 4 * np.pi, 300)
    position = 0.1 * np.stack([np.sin(time), np.cos(0.7 * time), np.sin(0.3 * time)], 1)
    names = movement_primitives(position, np.tile(np.eye(3), (300, 1, 1)), -np.ones(300), np.full(300, 0.08), HORIZON)
    assert names.count(STOP) < 30


def test_a_name_of_one_step_does_not_interrupt() -> None:
    position = np.cumsum(np.tile([0.004, 0, 0], (STEPS, 1)), axis=0)
    position[20:, 2] += 0.018  # with a horizon of 1, one step is "up"
    names = movement_primitives(position, np.tile(np.eye(3), (STEPS, 1, 1)), -np.ones(STEPS), np.full(STEPS, 0.08), 1)
    assert "up" not in " ".join(names)


def test_the_gripper_closes_from_the_command_until_the_fingers_stop() -> None:
    command = np.where(np.arange(30) < 10, -1, 1)
    opening = np.interp(np.arange(30), [10, 17], [0.08, 0.03])
    names = gripper_phases(command, opening)
    assert names[:10] == [""] * 10
    assert set(names[10:17]) == {"close gripper"}
    assert names[18:] == [""] * 12
    assert "open gripper" in gripper_phases(-command, opening[::-1])[10]


@given(st.integers(1, 40), st.integers(1, 20))
def test_there_is_one_name_per_step(steps: int, horizon: int) -> None:
    rng = np.random.default_rng(steps)
    rotation = Rotation.random(steps, rng=rng).as_matrix().reshape(-1, 3, 3)
    position = rng.normal(size=(steps, 3))
    names = movement_primitives(position, rotation, rng.choice([-1, 1], steps), rng.uniform(0, 0.08, steps), horizon)
    assert len(names) == steps
    assert all(names)


def test_directions_leave_out_small_components() -> None:
    assert directions(np.array([0.05, -0.001, 0.03]), 0.01) == ["forward", "up"]
    assert directions(np.zeros(3), 0.01) == []


def test_projection_of_known_points() -> None:
    pixels, depth = project(
        np.array([[0, 0, -2.0], [0.5, 0, -2], [0, 0.5, -2]]), np.zeros(3), np.eye(3), 100.0, (80, 120)
    )
    np.testing.assert_allclose(pixels, [[60, 40], [85, 40], [60, 15]])
    np.testing.assert_allclose(depth, 2)


def test_visibility_needs_a_place_in_the_picture_and_nothing_in_front() -> None:
    wall = np.full((10, 20), 1.0)
    assert is_visible(np.array([5.5, 5.5]), 0.9, wall)
    assert not is_visible(np.array([5.5, 5.5]), 1.1, wall)
    assert not is_visible(np.array([25.0, 5.5]), 0.9, wall)
    assert not is_visible(np.array([5.5, 5.5]), -1.0, wall)


def test_the_future_track_ends_on_the_last_point_and_stays_on_the_grid() -> None:
    points = np.stack([np.arange(30) * 10.0, np.full(30, -5.0)], 1)
    assert future_track(points, 0) == tuple((10 * s, 0) for s in FUTURE_STEPS)
    assert future_track(points, 28) == ((255, 0),) * 5
    assert to_grid(np.array([255.9, 256.0])).tolist() == [255, 255]
