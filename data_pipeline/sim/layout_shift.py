"""Moves what stands on the table: objects and fixtures, each group that belongs together by an offset of its own.

What touches at rest belongs together (a bowl and the drawer that it lies in), and so do the things that the sentence
relates in space ("next to the ramekin"), so that it stays true. The robot, the table and the rest stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from data_pipeline.contract import AGENTVIEW, SimulationUnstableError

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

_RELATION = re.compile(
    r"\b(between|next to|(left|right|front) of|center|middle (?!drawer)|at the (front|back)"
    r"|on the (left|right)( and|$))"
)
"""Then all that this action of the sentence names stays where it is to each other."""
_NEXT_ACTION = re.compile(r" and (?=(?:put|place|open|close|turn)\b)")
_SIDE = re.compile(r"\b(?:left|right) (\w+)")  # "the left plate": both plates
_CLEARANCE_M = 0.02  # between what is moved and anything else: a finger is as thick
_REACH_M = 0.30, 0.80  # horizontal distance of a body's origin from the robot's base, or as far as it was
_OUTSIDE = 0.05  # of the picture's width: how far a body's origin may leave it, or go beyond where it was
_SHORTER = (1.0, 0.5, 0.25)  # of the length asked for, where nothing farther fits
_DIRECTIONS = 48  # tried per group and length
_ATTEMPTS = 6  # layouts tried per length
_SLIDES_M, _TILT_DEG = 0.015, 10.0  # what still counts as standing

Offsets = dict[str, np.ndarray]  # name -> float64 [2], m


@dataclass(frozen=True)
class _Pose:
    """Of one object."""

    position: np.ndarray  # [3]
    upright: np.ndarray  # [3], the body's own z axis

    def is_near(self, other: _Pose, offset: np.ndarray) -> bool:
        """Whether it is `other`, moved by `offset` [2]."""
        off = self.position - other.position
        off[:2] -= offset
        cosine = float(self.upright @ other.upright)
        return bool(np.linalg.norm(off) < _SLIDES_M and cosine > np.cos(np.deg2rad(_TILT_DEG)))


def shift_layout(
    env: LiberoEnv, rng: np.random.Generator, length_m: float, restart: Callable[[], None]
) -> dict[str, Any]:
    """Shift every group by `length_m` in a drawn direction, less far where that does not fit. Does not settle.

    `restart` puts the episode's beginning back; `env` is there now. A layout counts where nothing touches, falls or
    tips while it settles and the goal does not hold; after enough that do not, shorter ones are drawn, and at last
    nothing is moved. Returns what was moved, name -> [x, y] in metres.
    """
    env.settle()
    plain, groups = _poses(env), _groups(env)
    for shorter in _SHORTER:
        for _ in range(_ATTEMPTS):
            restart()
            offsets = _draw(env, rng, groups, length_m * shorter)
            placed = _poses(env)
            stands = _settles(env) and _stands(env, placed, plain, offsets) and not env.success()
            restart()
            if stands:
                _move(env, offsets)
                return {"moved_m": {name: np.round(offset, 4).tolist() for name, offset in sorted(offsets.items())}}
    return {"moved_m": {}}


# ------------------------------------------------------------------ what belongs together


def _groups(env: LiberoEnv) -> list[tuple[str, ...]]:
    """Names of objects, fixtures and regions of the goal, by group; the task's own first. At rest."""
    things = [*env.object_names, *env.fixture_names]
    owner = {int(geom): name for name in things for geom in env.geoms_of(name)}
    touching = [(owner.get(c.geom1), owner.get(c.geom2)) for c in env.data.contact[: env.data.ncon]]
    groups = [{name} for name in things]
    for pair in touching:
        groups = _joined(groups, {name for name in pair if name is not None})
    for action in filter(_RELATION.search, _NEXT_ACTION.split(env.instruction)):
        tied = {name for name in things if _noun(name) in action}
        groups = _joined(groups, tied | _regions_of_the_table(env))
    for side in _SIDE.findall(env.instruction):
        groups = _joined(groups, {name for name in things if _noun(name) == side})
    return sorted((tuple(sorted(group)) for group in groups), key=lambda g: (not _wanted(env, g), g))


def _joined(groups: Sequence[set[str]], tie: set[str]) -> list[set[str]]:
    apart = [group for group in groups if not group & tie]
    return [*apart, tie.union(*(group for group in groups if group & tie))] if tie else list(groups)


def _wanted(env: LiberoEnv, group: Iterable[str]) -> bool:
    named = {name for goal in env.goal for name in goal[1:]} | set(env.objects_of_interest)
    return any(whole == name or whole.startswith(f"{name}_") for name in group for whole in named)


def _noun(name: str) -> str:
    """`glazed_rim_porcelain_ramekin_1` -> ramekin; `cookies_1` -> cookie."""
    return name.rpartition("_")[0].rpartition("_")[2].removesuffix("s")


def _regions_of_the_table(env: LiberoEnv) -> set[str]:
    """Regions in the goal that no object or fixture carries along: "the front of the stove" is a place of the table."""
    sites = env.raw.object_sites_dict
    return {name for goal in env.goal for name in goal[1:] if name in sites and sites[name].parent_name is None}


# ------------------------------------------------------------------ offsets


def _draw(env: LiberoEnv, rng: np.random.Generator, groups: Sequence[tuple[str, ...]], length_m: float) -> Offsets:
    """Move one group after the other; each move leaves a layout in which nothing is too near. What stays has none."""
    offsets: Offsets = {}
    for group in groups:
        ours, others = _solids(env, group)
        before = _where(env, group)
        for shorter, angle in _tries(rng):
            offset = length_m * shorter * np.array([np.cos(angle), np.sin(angle)])
            _move(env, dict.fromkeys(group, offset))
            if _is_usable(before, _where(env, group)) and _is_clear(env, ours, others):
                offsets |= dict.fromkeys(group, offset)
                break
            _move(env, dict.fromkeys(group, -offset))
    return offsets


def _tries(rng: np.random.Generator) -> list[tuple[float, float]]:
    """(share of the length, direction in radians): all directions at full length before any at half."""
    return [(shorter, angle) for shorter in _SHORTER for angle in rng.uniform(0, 2 * np.pi, _DIRECTIONS)]


def _move(env: LiberoEnv, offsets: Offsets) -> None:
    """Objects in the state, fixtures and regions in the model."""
    model, data = env.model, env.data
    for name, offset in offsets.items():
        if name in env.object_names:
            address = model.jnt_qposadr[model.body_jntadr[env.body_of(name)]]
            data.qpos[address : address + 2] += offset
        elif name in env.fixture_names:
            model.body_pos[env.body_of(name), :2] += offset
        else:
            model.site_pos[model.site(name).id, :2] += offset
    mujoco.mj_forward(model, data)


def _bodies(env: LiberoEnv, group: Iterable[str]) -> list[str]:
    return [name for name in group if name in env.object_names or name in env.fixture_names]


def _solids(env: LiberoEnv, group: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Geoms that collide: of the group; and of everything else that stands on the table, the robot included."""
    model = env.model
    own = {int(geom) for name in _bodies(env, group) for geom in env.geoms_of(name)}
    things = {int(geom) for name in (*env.object_names, *env.fixture_names) for geom in env.geoms_of(name)}
    robot = {g for g in range(model.ngeom) if model.body(model.geom_bodyid[g]).name.startswith(("robot0", "gripper0"))}
    solid = {g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]}
    return np.array(sorted(own & solid)), np.array(sorted((things | robot) & solid - own))


def _is_clear(env: LiberoEnv, ours: np.ndarray, others: np.ndarray) -> bool:
    """Whether no two geoms are nearer than the clearance; exact distances where bounding spheres are near."""
    model, data = env.model, env.data
    apart = np.linalg.norm(data.geom_xpos[ours, None] - data.geom_xpos[others], axis=2)
    near = apart < model.geom_rbound[ours, None] + model.geom_rbound[others] + _CLEARANCE_M
    return not any(
        mujoco.mj_geomDistance(model, data, ours[i], others[j], _CLEARANCE_M, None) < _CLEARANCE_M
        for i, j in np.argwhere(near)
    )


def _where(env: LiberoEnv, group: Iterable[str]) -> np.ndarray:
    """Per body of the group: distance from the robot's base (m) and from the picture's edge (widths), [N, 2]."""
    camera, base = env.camera(AGENTVIEW), env.data.body("robot0_base").xpos
    origins = np.array([env.data.xpos[env.body_of(name)] for name in _bodies(env, group)])
    x, y, z = ((origins - camera.position) @ camera.rotation).T
    edge = 0.5 - np.abs(np.stack([x, y]) / z).max(0) * camera.focal_px / camera.size[0]
    return np.stack([np.linalg.norm((origins - base)[:, :2], axis=1), edge], axis=1)


def _is_usable(before: np.ndarray, now: np.ndarray) -> bool:
    """Within reach, or no farther off than it was; in the picture, or hardly farther out."""
    low, high = np.minimum(_REACH_M[0], before[:, 0]), np.maximum(_REACH_M[1], before[:, 0])
    seen = now[:, 1] >= np.minimum(0.0, before[:, 1]) - _OUTSIDE
    return bool(((low <= now[:, 0]) & (now[:, 0] <= high) & seen).all())


# ------------------------------------------------------------------ at rest


def _poses(env: LiberoEnv) -> dict[str, _Pose]:
    bodies = {name: env.body_of(name) for name in env.object_names}
    return {
        name: _Pose(env.data.xpos[body].copy(), env.data.xmat[body].reshape(3, 3)[:, 2].copy())
        for name, body in bodies.items()
    }


def _settles(env: LiberoEnv) -> bool:
    """Let a drawn layout come to rest; one that blows up is no episode's fault, only a bad draw."""
    try:
        env.settle()
    except SimulationUnstableError:
        return False
    return True


def _stands(env: LiberoEnv, placed: dict[str, _Pose], plain: dict[str, _Pose], offsets: Offsets) -> bool:
    """Whether every object has settled where it was placed, or as it does where nothing was moved."""
    still = np.zeros(2)
    return all(
        pose.is_near(placed[name], still) or pose.is_near(plain[name], offsets.get(name, still))
        for name, pose in _poses(env).items()
    )
