"""Exact optical flow between two moments of a rigid-body simulation; pure numpy.

A pixel and its depth give a point on a body; the body's motion carries the point; the later camera projects it:
X_w = R_c X_c + t_c,  X_w' = R_gB R_gA^T (X_w - p_gA) + p_gB,  then perspective division. Cameras follow OpenGL (looking
along -z, y up); images are in ImageFrame.UPRIGHT with pixel centres at +0.5. N is the number of pixels, G that of
geoms; index G, which geom id -1 reaches too, stands for whatever does not move.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data_pipeline.scene import Moment
from flow_pipeline.flow_field import FlowField

MIN_DEPTH_M = 1e-4
OCCLUSION_RELATIVE = 0.01
OCCLUSION_ABSOLUTE_M = 2e-3
_NEIGHBOURS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]


def exact_flow(first: Moment, later: Moment) -> FlowField:
    """Flow of every pixel of `first` to where its surface point appears in `later`, seen or not. UPRIGHT frame.

    Not valid: pixels without a geom, and points that end up behind the camera. Occluded: points outside the later
    image, or where no pixel in the 3 x 3 neighbourhood of the target agrees in depth within 1 % + 2 mm.
    """
    shape = first.geom.shape
    target, depth = _transport(first, later)
    valid = (first.geom.ravel() >= 0) & (depth > MIN_DEPTH_M)
    flow = (target - _pixel_centres(shape)).astype(np.float32)
    flow[:, ~valid] = 0
    occluded = valid & ~_seen(target, depth, later.depth_m)
    return FlowField(
        np.ascontiguousarray(flow.T).reshape(*shape, 2), valid.reshape(shape), occluded.reshape(shape), "sim"
    )


def _transport(first: Moment, later: Moment) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's surface point lies in the later image: pixels [2, N] and its depth [N].

    What stands still, most of an image, follows from the camera's motion alone: by one map, or unchanged.
    """
    size, geom = first.geom.shape, first.geom.ravel()
    target, depth = _pixel_centres(size).copy(), first.depth_m.ravel().astype(np.float64)
    points = _rays(size, first.focal_px) * depth  # [3, N]

    def project(pixels: np.ndarray | slice, moved: np.ndarray) -> None:
        x, y, z = moved
        scale = later.focal_px / np.where(np.abs(z) > MIN_DEPTH_M, -z, 1.0)
        target[0, pixels], target[1, pixels] = size[1] / 2 + x * scale, size[0] / 2 - y * scale
        depth[pixels] = -z

    rotation, offset = _composed(first, later)
    if not _camera_stands(first, later):
        project(slice(None), rotation[-1] @ points + offset[-1][:, None])
    pixels = np.flatnonzero(_moves(first, later)[geom])
    own = geom[pixels]
    project(pixels, np.einsum("nij,jn->in", rotation[own], points[:, pixels]) + offset[own].T)
    return target, depth


def _moves(first: Moment, later: Moment) -> np.ndarray:
    """Which geoms are elsewhere later: bool [G + 1]."""
    turned = (first.geom_rotation != later.geom_rotation).any((-1, -2))
    return np.append(turned | (first.geom_position != later.geom_position).any(-1), False)


def _camera_stands(first: Moment, later: Moment) -> bool:
    return np.array_equal(first.camera_position, later.camera_position) and np.array_equal(
        first.camera_rotation, later.camera_rotation
    )


def _composed(first: Moment, later: Moment) -> tuple[np.ndarray, np.ndarray]:
    """Per geom, the rigid map from the first camera's coordinates to the later camera's: [G + 1, 3, 3], [G + 1, 3]."""
    motion = later.geom_rotation @ first.geom_rotation.swapaxes(-1, -2)  # [G, 3, 3], world to world
    shift = later.geom_position - np.einsum("gij,gj->gi", motion, first.geom_position)
    motion, shift = np.concatenate([motion, np.eye(3)[None]]), np.concatenate([shift, np.zeros((1, 3))])
    to_camera = later.camera_rotation.T
    rotation = to_camera @ motion @ first.camera_rotation
    world_offset = np.einsum("gij,j->gi", motion, first.camera_position) + shift - later.camera_position
    return rotation, world_offset @ to_camera.T


def _seen(target: np.ndarray, depth: np.ndarray, later_depth: np.ndarray) -> np.ndarray:
    """Which points, at pixels [2, N] and depth [N] of the later camera, its image [H, W] shows: bool [N]."""
    height, width = later_depth.shape
    x, y = target
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = np.where(within, y, 0).astype(np.int32) * width + np.where(within, x, 0).astype(np.int32)
    tolerance = OCCLUSION_RELATIVE * np.abs(depth) + OCCLUSION_ABSOLUTE_M
    seen = within & (np.abs(later_depth.ravel().take(place) - depth) < tolerance)
    rest = np.flatnonzero(within & ~seen)  # few: only these look around
    row, column = np.divmod(place[rest], width)
    for down, right in _NEIGHBOURS:
        shown = later_depth[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
        seen[rest] |= np.abs(shown - depth[rest]) < tolerance[rest]
    return seen


@lru_cache(maxsize=4)
def _pixel_centres(size: tuple[int, int]) -> np.ndarray:
    """Their x and y: float64 [2, N]. Not to be written to."""
    columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return np.stack([columns.ravel(), rows.ravel()])


@lru_cache(maxsize=4)
def _rays(size: tuple[int, int], focal_px: float) -> np.ndarray:
    """Directions through the pixels' centres, at depth 1, in camera coordinates: float64 [3, N]."""
    x, y = (_pixel_centres(size) - np.array([[size[1]], [size[0]]]) / 2) / focal_px
    return np.stack([x, -y, np.full_like(x, -1)])
