"""Exact flow against closed forms: a turning camera over a wall, a sliding box, and what it hides."""

from __future__ import annotations

import numpy as np

from data_pipeline.scene import Moment
from flow_pipeline.exact_flow import exact_flow

SIZE, FOCAL = 64, 70.0
IDENTITY = np.eye(3)


def moment(depth: np.ndarray, geom: np.ndarray, positions: list[list[float]], **changes: np.ndarray) -> Moment:
    """A camera at the origin that looks along -z."""
    values = {
        "depth_m": depth.astype(np.float32),
        "geom": geom,
        "geom_position": np.array(positions, float),
        "geom_rotation": np.tile(IDENTITY, (len(positions), 1, 1)),
        "camera_position": np.zeros(3),
        "camera_rotation": IDENTITY,
        "focal_px": FOCAL,
    }
    return Moment(**{**values, **changes})


def rotation_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_a_turning_camera_shifts_the_wall_by_the_homography() -> None:
    wall = np.full((SIZE, SIZE), 2.0), np.zeros((SIZE, SIZE), int)
    first = moment(*wall, [[0, 0, -2]])
    later = moment(*wall, [[0, 0, -2]], camera_rotation=rotation_y(0.1))
    columns, rows = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    a, b = (columns - SIZE / 2) / FOCAL, (rows - SIZE / 2) / FOCAL
    # a camera that turns to its left by 0.1 rad sees a direction with tangent a at tan(atan(a) + 0.1)
    tangent = np.tan(np.arctan(a) + 0.1)
    stretch = np.sqrt(1 + tangent**2) / np.sqrt(1 + a**2)
    expected = np.stack([FOCAL * (tangent - a), FOCAL * b * (stretch - 1)], -1)
    field = exact_flow(first, later)
    assert field.valid.all()
    np.testing.assert_allclose(field.flow_px, expected, atol=0.01)


def test_a_sliding_box_moves_its_own_pixels_only() -> None:
    geom = np.zeros((SIZE, SIZE), int)
    geom[20:40, 10:30] = 1
    depth = np.where(geom == 1, 1.4, 2.0)
    step = np.array([0.2, 0.1, -0.3])
    first = moment(depth, geom, [[0, 0, -2], [0, 0, -1.5]])
    later = moment(depth, geom, [[0, 0, -2], [step[0], step[1], -1.5 + step[2]]])
    flow = exact_flow(first, later).flow_px
    columns, rows = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    x, y = (columns - SIZE / 2) / FOCAL * 1.4, -(rows - SIZE / 2) / FOCAL * 1.4
    new = SIZE / 2 + FOCAL * np.stack([(x + step[0]) / 1.7, -(y + step[1]) / 1.7], -1)
    expected = np.where(geom[..., None] == 1, new - np.stack([columns, rows], -1), 0)
    np.testing.assert_allclose(flow, expected, atol=0.01)


def test_sky_is_not_valid() -> None:
    geom = np.full((SIZE, SIZE), -1)
    geom[:10] = 0
    first = moment(np.full((SIZE, SIZE), 5.0), geom, [[0, 0, -5]])
    field = exact_flow(first, first)
    np.testing.assert_array_equal(field.valid, geom == 0)
    np.testing.assert_allclose(field.flow_px, 0, atol=1e-5)


def test_the_wall_behind_a_box_that_moved_in_is_hidden() -> None:
    wall, boxed = np.zeros((SIZE, SIZE), int), np.zeros((SIZE, SIZE), int)
    boxed[20:40, 10:30] = 1
    first = moment(np.full((SIZE, SIZE), 2.0), wall, [[0, 0, -2], [9, 0, -1.5]])
    later = moment(np.where(boxed == 1, 1.4, 2.0), boxed, [[0, 0, -2], [0, 0, -1.5]])
    hidden = exact_flow(first, later).occluded
    assert hidden[22:38, 12:28].all()
    assert not hidden[:18].any()
