"""Exact optical flow between two moments of a rigid-body simulation; pure numpy.

A pixel and its depth give a point on a body; the body's motion carries the point; the later camera projects it:
X_w = R_c X_c + t_c,  X_w' = R_gB R_gA^T (X_w - p_gA) + p_gB,  then perspective division. Cameras follow OpenGL (looking
along -z, y up); images are in ImageFrame.UPRIGHT with pixel centres at +0.5.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.scene import Moment
from flow_pipeline.flow_field import FlowField, inside

MIN_DEPTH_M = 1e-4
OCCLUSION_RELATIVE = 0.01
OCCLUSION_ABSOLUTE_M = 2e-3


def exact_flow(first: Moment, later: Moment) -> FlowField:
    """Flow of every pixel of `first` to where its surface point appears in `later`, seen or not. UPRIGHT frame.

    Not valid: pixels without a geom, and points that end up behind the camera. Occluded: points outside the later
    image, or where no pixel in the 3 x 3 neighbourhood of the target agrees in depth within 1 % + 2 mm.
    """
    target, depth = _transport(first, later)
    valid = (first.geom >= 0) & (depth > MIN_DEPTH_M)
    flow = np.where(valid[..., None], target - _pixel_centres(first.geom.shape), 0).astype(np.float32)
    return FlowField(flow, valid, valid & ~_seen(target, depth, later), "sim")


def _seen(target: np.ndarray, depth: np.ndarray, later: Moment) -> np.ndarray:
    """Which points, at pixels [H, W, 2] and depth [H, W] of the later camera, its image shows: bool [H, W]."""
    height, width = later.geom.shape
    within = inside(target, later.geom.shape)
    column, row = np.moveaxis(np.floor(np.where(within[..., None], target, 0)).astype(int), -1, 0)
    tolerance = OCCLUSION_RELATIVE * np.abs(depth) + OCCLUSION_ABSOLUTE_M
    agrees = np.zeros(within.shape, bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            shown = later.depth_m[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
            agrees |= np.abs(shown - depth) < tolerance
    return within & agrees


def _transport(first: Moment, later: Moment) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's surface point lies in the later image: pixels [H, W, 2] and its depth [H, W]."""
    size = first.geom.shape
    centre = np.array([size[1] / 2, size[0] / 2])
    ray = (_pixel_centres(size) - centre) / first.focal_px * [1, -1]
    point_camera = np.concatenate([ray, np.full((*size, 1), -1.0)], -1) * first.depth_m[..., None]  # [H, W, 3]
    rotation, offset = _composed(first, later)
    geom = np.maximum(first.geom, 0)
    moved = np.einsum("hwij,hwj->hwi", rotation[geom], point_camera) + offset[geom]
    depth = -moved[..., 2]
    safe = np.where(np.abs(depth) > MIN_DEPTH_M, depth, 1.0)
    return centre + later.focal_px * moved[..., :2] * [1, -1] / safe[..., None], depth


def _composed(first: Moment, later: Moment) -> tuple[np.ndarray, np.ndarray]:
    """Per geom, the rigid map from the first camera's coordinates to the later camera's: [G, 3, 3], [G, 3]."""
    motion = later.geom_rotation @ first.geom_rotation.swapaxes(-1, -2)  # [G, 3, 3], world to world
    shift = later.geom_position - np.einsum("gij,gj->gi", motion, first.geom_position)
    to_camera = later.camera_rotation.T
    rotation = to_camera @ motion @ first.camera_rotation
    world_offset = np.einsum("gij,j->gi", motion, first.camera_position) + shift - later.camera_position
    return rotation, world_offset @ to_camera.T


def _pixel_centres(size: tuple[int, ...]) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return np.stack([columns, rows], -1)
