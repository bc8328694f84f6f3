"""Begins a perturbed episode: a reset, and then one thing changed before anything settles.

What is changed is a pure function of (task, initial state, seed, kind, strength). The direction of a change does not
depend on its strength, so that strengths of one episode differ by how far they go. `Unperturbed` puts everything back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from configs.perturbation import MAGNITUDES, Kind, Magnitude, Perturbation
from data_pipeline.contract import AGENTVIEW
from data_pipeline.instruction_variants import vary
from data_pipeline.libero_utils import instruction, task_names
from data_pipeline.sim.layout_shift import shift_layout

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

_COLOURS = ("diffuse", "ambient", "specular")
_FIELDS = ("cam_pos", "cam_quat", "site_pos", "light_pos", "light_dir", *(f"light_{name}" for name in _COLOURS))
_ELEVATION_DEG = 20.0, 75.0
"""Seen from lower, the table hides what stands on it; from higher, the hand does."""


class Unperturbed:
    """What perturbations write into a model beside the bodies' poses, as it was compiled."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._fields = {name: getattr(model, name).copy() for name in _FIELDS}
        self._headlight = {name: getattr(model.vis.headlight, name).copy() for name in _COLOURS}

    def restore(self) -> None:
        """Put it back."""
        for name, values in self._fields.items():
            getattr(self._model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values


@dataclass(frozen=True)
class Perturbed:
    """How an episode begins."""

    instruction: str
    drawn: dict[str, Any] = field(default_factory=dict)  # plain values, for the record


def begin(env: LiberoEnv, perturbation: Perturbation, init_state: int, seed: int) -> Perturbed:
    """Reset `env` and perturb the episode. Does not settle. Raises EnvironmentProblem as `reset` does."""
    env.reset(seed=seed, init_state=init_state)
    rng = np.random.default_rng(_entropy(env, perturbation.kind, init_state, seed))
    size, drawn, sentence = perturbation.magnitude, dict[str, Any](), env.instruction
    match perturbation.kind:
        case Kind.CAMERA:
            drawn = _turn_camera(env, rng, size)
        case Kind.LIGHT:
            drawn = _change_light(env, rng, size)
        case Kind.LAYOUT:
            drawn = shift_layout(env, rng, size.layout_m, lambda: env.reset(seed=seed, init_state=init_state))
        case Kind.INSTRUCTION:
            suite = [instruction(name) for name in task_names(env.subset)]
            sentence = vary(env.instruction, perturbation.strength, suite, rng)
    return Perturbed(sentence, drawn)


def _entropy(env: LiberoEnv, kind: Kind, init_state: int, seed: int) -> int:
    text = f"perturb/{env.subset.value}/{env.task_id}/{init_state}/{seed}/{kind.value}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _turn_camera(env: LiberoEnv, rng: np.random.Generator, size: Magnitude) -> dict[str, Any]:
    """Carry agentview along an arc about the point of its axis that is as high as the objects."""
    model, data = env.model, env.data
    camera = model.camera(AGENTVIEW).id
    position, axes = data.cam_xpos[camera].copy(), data.cam_xmat[camera].reshape(3, 3).copy()
    height = np.mean([data.xpos[env.body_of(name)][2] for name in env.object_names])
    target = position - axes[:, 2] * (position[2] - height) / axes[2, 2]
    turns = (_turn(axes, direction) for direction in rng.uniform(0, 2 * np.pi, 100))
    direction, axis = next(found for found in turns if _stays_aloft(found[1], position - target))
    turn = Rotation.from_rotvec(np.deg2rad(size.camera_deg) * axis)
    model.cam_pos[camera] = target + turn.apply(position - target)
    mujoco.mju_mat2Quat(model.cam_quat[camera], (turn.as_matrix() @ axes).ravel())
    mujoco.mj_camlight(model, data)
    return {"arc_deg": size.camera_deg, "direction_deg": round(float(np.rad2deg(direction)), 3)}


def _turn(axes: np.ndarray, direction: float) -> tuple[float, np.ndarray]:
    """A direction in the picture's plane, and the axis [3] of an arc that leads there."""
    return direction, np.cos(direction) * axes[:, 0] + np.sin(direction) * axes[:, 1]


def _stays_aloft(axis: np.ndarray, arm: np.ndarray) -> bool:
    """Whether no strength brings a camera at the end of `arm` [3] too low or too high: directions suit them all."""
    arcs = [np.deg2rad(size.camera_deg) * axis for size in MAGNITUDES.values()]
    heights = Rotation.from_rotvec(np.array(arcs)).apply(arm)[:, 2] / np.linalg.norm(arm)
    low, high = np.sin(np.deg2rad(_ELEVATION_DEG))
    return bool(((low <= heights) & (heights <= high)).all())


def _change_light(env: LiberoEnv, rng: np.random.Generator, size: Magnitude) -> dict[str, Any]:
    """All lamps and the headlight: brighter or darker, tinted; lamps moved, still aimed at what they lit."""
    model = env.model
    stops = size.light_stops * rng.choice([-1.0, 1.0])
    tint = rng.permutation([-1.0, 0.0, 1.0]) + rng.uniform(-0.5, 0.5, 3)  # a cast, not only another brightness
    factors = 2.0**stops * (1 + size.light_tint * tint / np.abs(tint).max())
    for name in _COLOURS:
        for colours in (getattr(model, f"light_{name}"), getattr(model.vis.headlight, name)):
            colours[:] = np.clip(colours * factors, 0.0, 1.0)
    direction = rng.uniform(0, 2 * np.pi)
    shift = size.light_shift_m * np.array([np.cos(direction), np.sin(direction), 0.0])
    for light in range(model.nlight):
        aim = model.light_pos[light] - model.light_dir[light] * model.light_pos[light, 2] / model.light_dir[light, 2]
        model.light_pos[light] += shift
        way = aim - model.light_pos[light]
        model.light_dir[light] = way / np.linalg.norm(way)
    mujoco.mj_camlight(model, env.data)
    return {"factors_rgb": np.round(factors, 4).tolist(), "shift_m": np.round(shift[:2], 4).tolist()}
