"""What the expert may read of the simulator: poses, joints, goal predicates and solid point clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from data_pipeline.sim.expert.geometry import UP, distance_to_segment, local_lattice, rotation_z

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

GRIP_SITE = "gripper0_grip_site"
_FINGER_JOINTS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
_SHOULDER = "robot0_link2"
_ROBOT_PREFIXES = ("robot0", "gripper0", "mount0")
_COLLISION_GROUPS = (0, 1, 3)
_OBJECT_SPACING = 0.006
_OBSTACLE_SPACING = 0.010
_NEARBY = 0.35
CORRIDOR = 0.13
"""Half the width of the corridor that the hand with an object needs, metres."""

Goal = tuple[str, ...]
"""A BDDL predicate: (name, object[, place]), e.g. ("in", "milk_1", "basket_1_contain_region")."""


@dataclass(frozen=True)
class Region:
    """A named place: a site of the model."""

    centre: np.ndarray  # [3]
    extent: np.ndarray  # [3] half sizes along the world's axes


@dataclass(frozen=True)
class Slider:
    """A drawer: its joint, the direction in which it opens, and the centre of its handle bar."""

    joint: int
    outwards: np.ndarray  # [3] unit vector
    handle: np.ndarray  # [3]


@dataclass(frozen=True)
class Door:
    """A door on a vertical hinge: its leaf as it stands now."""

    anchor: np.ndarray  # [3], a point of the hinge
    leaf: np.ndarray  # [3], middle of the leaf's upper edge
    outwards: np.ndarray  # [3] unit vector, normal of the leaf's outer face
    thickness: float  # metres
    angle: float  # radians, signed, 0 when shut
    opens: float  # sign of the angle of an open door

    def before(self, gap: float, along: float) -> np.ndarray:
        """Point [3] a `gap` before the outer face, `along` metres from its middle away from the hinge."""
        away = self.leaf - self.anchor
        away = away - self.outwards * (away @ self.outwards)
        away[2] = 0.0
        return self.leaf + away / np.linalg.norm(away) * along + self.outwards * (self.thickness / 2 + gap)

    def turned(self, point: np.ndarray, by: float) -> np.ndarray:
        """A point turned about the hinge by an angle, in the direction that shuts the door."""
        return self.anchor + rotation_z(-self.opens * by) @ (point - self.anchor)

    @property
    def outwards_when_shut(self) -> np.ndarray:
        """Normal [3] of the opening."""
        return rotation_z(-self.angle) @ self.outwards


class Scene:
    """Read-only view of one environment; always the present state."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self.model: mujoco.MjModel = env.model
        self.data: mujoco.MjData = env.data
        self._grip_site = self.model.site(GRIP_SITE).id
        self._fingers = [int(self.model.joint(name).qposadr[0]) for name in _FINGER_JOINTS]
        self._lattices: dict[tuple[int, float], np.ndarray] = {}
        self._solid = [g for g in range(self.model.ngeom) if self._collides(g)]
        self.base: np.ndarray = self.data.body("robot0_base").xpos.copy()  # [3], of the robot
        self.goals: tuple[Goal, ...] = tuple((g[0].lower(), *g[1:]) for g in env.goal)

    # -------------------------------------------------------------- poses

    @property
    def hand_position(self) -> np.ndarray:
        """Grip site, [3]."""
        return self.data.site_xpos[self._grip_site].copy()

    @property
    def hand_rotation(self) -> np.ndarray:
        """Grip site, [3, 3]."""
        return self.data.site_xmat[self._grip_site].reshape(3, 3).copy()

    @property
    def opening(self) -> float:
        """Of the fingers, metres."""
        return float(np.abs(self.data.qpos[self._fingers]).sum())

    @property
    def shoulder(self) -> np.ndarray:
        """Of the arm, [3]; it does not move."""
        return self.data.body(_SHOULDER).xpos.copy()

    def is_object(self, name: str) -> bool:
        """Whether `name` is a movable object or a fixture rather than a region."""
        return name in self._env.raw.obj_body_id

    def position(self, name: str) -> np.ndarray:
        """Origin of an object's or fixture's body, or centre of a region, [3]."""
        if self.is_object(name):
            return self.data.xpos[self._env.raw.obj_body_id[name]].copy()
        return self.data.site_xpos[self.model.site(name).id].copy()

    def region(self, name: str) -> Region:
        """Centre and extent of a region's site."""
        site = self.model.site(name).id
        rotation = self.data.site_xmat[site].reshape(3, 3)
        return Region(self.data.site_xpos[site].copy(), np.abs(rotation @ self.model.site_size[site]))

    def owner(self, region: str) -> str:
        """The object, fixture or table that a region belongs to."""
        return str(self._env.raw.object_sites_dict[region].parent_name)

    # -------------------------------------------------------------- goals and joints

    def satisfied(self, goal: Goal) -> bool:
        """Whether LIBERO counts the predicate as true now."""
        return bool(self._env.raw._eval_predicate(list(goal)))

    def joint_value(self, joint: int) -> float:
        """Position of a slide or hinge joint, metres or radians."""
        return float(self.data.qpos[self.model.jnt_qposadr[joint]])

    def joint_of_region(self, region: str) -> int:
        """Joint that moves a drawer's region."""
        return self.model.joint(self._env.raw.object_sites_dict[region].joints[0]).id

    def joint_of_object(self, name: str) -> int:
        """First joint in a fixture's body tree."""
        bodies = self._subtree(self._env.raw.obj_body_id[name])
        return next(j for j in range(self.model.njnt) if self.model.jnt_bodyid[j] in bodies)

    def slider(self, joint: int) -> Slider:
        """The handle is the collision geom of the drawer's body that sticks out farthest."""
        low, high = self.model.jnt_range[joint]
        outwards = self.data.xaxis[joint] * (-1 if abs(low) > abs(high) else 1)
        geoms = self._geoms({int(self.model.jnt_bodyid[joint])})
        handle = max(geoms, key=lambda g: self.data.geom_xpos[g] @ outwards)
        return Slider(joint, outwards.copy(), self.data.geom_xpos[handle].copy())

    def door(self, fixture: str) -> Door:
        """The leaf is the bulkiest collision geom of the body on the fixture's first hinge."""
        joint = self.joint_of_object(fixture)
        opens = float(np.sign(self.model.jnt_range[joint].sum()))
        geoms = self._geoms({int(self.model.jnt_bodyid[joint])})
        leaf = max(geoms, key=lambda g: float(np.prod(self.model.geom_size[g])))
        size, axes = self.model.geom_size[leaf], self.data.geom_xmat[leaf].reshape(3, 3)
        thin = axes[:, size.argmin()]
        anchor, centre = self.data.xanchor[joint].copy(), self.data.geom_xpos[leaf]
        shutting = np.cross([0.0, 0.0, -opens], centre - anchor)
        outwards = thin * -np.sign(thin @ shutting)
        edge = centre + UP * float(np.abs(axes @ np.diag(size))[2].sum())
        return Door(anchor, edge, outwards, float(2 * size.min()), self.joint_value(joint), opens)

    # -------------------------------------------------------------- point clouds

    def object_points(self, name: str) -> np.ndarray:
        """Solid cloud of an object or fixture, [N, 3]."""
        return self._cloud(self._geoms(self._subtree(self._env.raw.obj_body_id[name])), _OBJECT_SPACING)

    def moving_points(self, joint: int) -> np.ndarray:
        """Solid cloud of the body that a joint moves, [N, 3]."""
        return self._cloud(self._geoms({int(self.model.jnt_bodyid[joint])}), _OBJECT_SPACING)

    def obstacle_points(self, held: str, near: np.ndarray) -> np.ndarray:
        """Solid cloud [N, 3] near a point, without the robot, the arena and the object `held`."""
        own = self._subtree(self._env.raw.obj_body_id[held])
        geoms = [g for g in self._solid if self._is_obstacle(g, own) and self._is_near(g, near)]
        return self._cloud(geoms, _OBSTACLE_SPACING)

    def corridor(self, held: str, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Obstacles that the hand with an object could meet between two points: how far along, [N], and heights [N]."""
        points = self.obstacle_points(held, (start + end) / 2)
        points = points[distance_to_segment(points, start, end) < CORRIDOR]
        way = (end - start)[:2]
        return (points - start)[:, :2] @ way / (np.linalg.norm(way) + 1e-9), points[:, 2]

    # -------------------------------------------------------------- private

    def _collides(self, geom: int) -> bool:
        model = self.model
        active = bool(model.geom_contype[geom] or model.geom_conaffinity[geom])
        return (
            active
            and model.geom_group[geom] in _COLLISION_GROUPS
            and model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_PLANE
        )

    def _is_obstacle(self, geom: int, own: set[int]) -> bool:
        body = int(self.model.geom_bodyid[geom])
        robot = self.model.body(body).name.startswith(_ROBOT_PREFIXES)
        return body != 0 and body not in own and not robot

    def _is_near(self, geom: int, point: np.ndarray) -> bool:
        distance = np.linalg.norm((self.data.geom_xpos[geom] - point)[:2])
        return bool(distance <= np.linalg.norm(self.model.geom_aabb[geom][3:]) + _NEARBY)

    def _subtree(self, body: int) -> set[int]:
        found = {int(body)}
        for child in range(body + 1, self.model.nbody):
            if int(self.model.body_parentid[child]) in found:
                found.add(child)
        return found

    def _geoms(self, bodies: set[int]) -> list[int]:
        return [g for g in self._solid if int(self.model.geom_bodyid[g]) in bodies]

    def _cloud(self, geoms: list[int], spacing: float) -> np.ndarray:
        if not geoms:
            return np.zeros((0, 3))
        return np.concatenate([self._world_points(g, spacing) for g in geoms])

    def _world_points(self, geom: int, spacing: float) -> np.ndarray:
        key = (geom, spacing)
        if key not in self._lattices:
            self._lattices[key] = local_lattice(self.model, geom, spacing)
        return self._lattices[key] @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom]
