"""Rotations and solid point clouds. Metres, radians, world frame; rotation matrices map hand or geom axes to the world.

In LIBERO everything that collides in the four suites is a box or a capsule, so a lattice of points inside the
collision geoms is an exact enough picture of the scene for planning.
"""

from __future__ import annotations

import mujoco
import numpy as np

UP = np.array([0.0, 0.0, 1.0])

_DENSE_LATTICE = 4000
"""Boxes with more lattice points than this are sampled at `_COARSE_SPACING` instead."""
_COARSE_SPACING = 0.01
_MAX_POINTS_PER_AXIS = 60


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] -> axis times angle [3], angle in [0, pi]."""
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    if quaternion[0] < 0:
        quaternion = -quaternion
    sine = np.linalg.norm(quaternion[1:])
    if sine < 1e-9:
        return np.zeros(3)
    return quaternion[1:] / sine * 2 * np.arctan2(sine, quaternion[0])


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Angle of the rotation from `second` to `first`."""
    return float(np.linalg.norm(rotation_vector(first @ second.T)))


def rotation_z(angle: float) -> np.ndarray:
    """Rotation about the world's z axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pointing(direction: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Hand rotation whose fingers point along `direction` and open along `opening`, two orthogonal unit vectors.

    Robosuite's grip site has the fingers along z and opens them along x.
    """
    return np.stack([opening, np.cross(direction, opening), direction], axis=1)


def pointing_down(opening: np.ndarray) -> np.ndarray:
    """Hand rotation with the fingers pointing down, opening along the horizontal part of `opening`."""
    flat = np.array([opening[0], opening[1], 0.0])
    return pointing(np.array([0.0, 0.0, -1.0]), flat / np.linalg.norm(flat))


def nearest_rotation(candidates: list[np.ndarray], current: np.ndarray) -> np.ndarray:
    """The candidate with the smallest angle to `current`."""
    return min(candidates, key=lambda rotation: angle_between(rotation, current))


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation about any axis."""
    quaternion, matrix = np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quaternion, np.asarray(axis, float) / np.linalg.norm(axis), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def local_lattice(model: mujoco.MjModel, geom: int, spacing: float) -> np.ndarray:
    """Points [N, 3] inside a geom, in its own frame: its box, or the part of its bounding box within its radius."""
    kind = model.geom_type[geom]
    is_box = kind == mujoco.mjtGeom.mjGEOM_BOX
    half = model.geom_size[geom] if is_box else model.geom_aabb[geom][3:]
    centre = np.zeros(3) if is_box else model.geom_aabb[geom][:3]
    points = _lattice(half, spacing)
    if len(points) > _DENSE_LATTICE:
        points = _lattice(half, max(spacing, _COARSE_SPACING))
    if kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE):
        points = points[np.hypot(points[:, 0], points[:, 1]) <= model.geom_size[geom][0] + 1e-6]
    return points + centre


def _lattice(half: np.ndarray, spacing: float) -> np.ndarray:
    counts = [int(np.clip(np.ceil(2 * h / spacing) + 1, 2, _MAX_POINTS_PER_AXIS)) for h in half]
    axes = [np.linspace(-h, h, n) for h, n in zip(half, counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Horizontal distance [N] of points [N, 3] to the segment from `start` to `end`."""
    along = (end - start)[:2]
    share = np.clip((points - start)[:, :2] @ along / (along @ along + 1e-9), 0, 1)
    return np.linalg.norm((points - start)[:, :2] - share[:, None] * along, axis=1)
