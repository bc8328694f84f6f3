"""Points in pictures: a pinhole projection, whether a point is seen, and the gripper's future track. Pure."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import POINT_GRID

FUTURE_STEPS = (4, 8, 12, 16, 20)
"""Where the gripper will be 0.2 to 1 s ahead: five positions, one per step of a 5 Hz robot as embodied-CoT has them."""

VISIBLE_TOLERANCE_M = 0.03
"""The grip site floats between the fingers; what lies within this distance of it does not hide it."""


def project(
    points: np.ndarray, position: np.ndarray, rotation: np.ndarray, focal_px: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """World points into a camera's picture.

    points: float [..., 3], m; position [3] and rotation [3, 3] (camera to world) of an OpenGL camera, looking along -z.
    Returns continuous UPRIGHT pixels [..., 2] as (x, y), and depth along the axis [...], m, positive in front.
    """
    local = (points - position) @ rotation
    depth = -local[..., 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    centre = np.array([size[1] / 2, size[0] / 2])
    return centre + focal_px * local[..., :2] * [1, -1] / safe[..., None], depth


def is_visible(pixel: np.ndarray, depth_m: float, depth_image_m: np.ndarray) -> bool:
    """Whether a point at continuous `pixel` (x, y) of the same frame is in the picture with nothing in front of it."""
    column, row = np.floor(pixel).astype(int)
    height, width = depth_image_m.shape
    if depth_m <= 0 or not (0 <= column < width and 0 <= row < height):
        return False
    return bool(depth_image_m[row, column] > depth_m - VISIBLE_TOLERANCE_M)


def to_grid(points: np.ndarray) -> np.ndarray:
    """Continuous POINT_GRID coordinates -> integers 0..POINT_GRID - 1, the nearest ones for points outside."""
    return np.clip(np.floor(points), 0, POINT_GRID - 1).astype(int)


def future_track(points: np.ndarray, step: int) -> tuple[tuple[int, int], ...]:
    """Grid positions FUTURE_STEPS after `step`, the last of the episode repeated past its end. points: float [T, 2]."""
    return tuple((int(x), int(y)) for x, y in to_grid(points[_ahead(step, len(points))]))


def future_visibility(visible: np.ndarray) -> np.ndarray:
    """Whether the gripper is seen where `future_track` has it: bool [T, 5]. visible: bool [T]."""
    return np.array([visible[_ahead(step, len(visible))] for step in range(len(visible))])


def _ahead(step: int, steps: int) -> np.ndarray:
    return np.minimum(step + np.array(FUTURE_STEPS), steps - 1)
