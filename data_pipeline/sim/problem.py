"""LIBERO's own object for a task, and what its files say of it. Import it after `boot()`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import libero.libero as libero_package
import mujoco
import numpy as np
import robosuite
from libero.libero.envs import TASK_MAPPING
from libero.libero.envs.bddl_utils import get_problem_info

from configs.choices import Subset
from data_pipeline import libero_utils
from data_pipeline.sim.assets import AssetSet
from data_pipeline.sim.boot import libero_root, quiet, read_init_states

_CONTROL_FREQUENCY_HZ = 20


def build_problem(bddl_file: str, chosen: AssetSet) -> Any:
    """LIBERO's problem class for a BDDL file, without cameras and without a renderer."""
    package: Any = libero_package
    package._assets_path_cache = str(chosen.path)  # the only way in: it ignores its own configuration
    problem = TASK_MAPPING[get_problem_info(bddl_file)["problem_name"]]
    with quiet():
        raw = problem(
            bddl_file,
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            gripper_types="default",
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=_CONTROL_FREQUENCY_HZ,
            ignore_done=True,
            hard_reset=False,
        )
    for observable in raw._observables.values():
        observable.set_enabled(False)
    return raw


def official_init_states(subset: Subset, task_name: str) -> np.ndarray:
    """Every official initial state of a task: float64 [N, S]."""
    folder = libero_root() / "init_files" / libero_utils.SUITE_OF[subset]
    return read_init_states(folder / f"{task_name}.pruned_init")


def compiled_poses(raw: Any, model: mujoco.MjModel, fixtures: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Every body's position float64 [B, 3] and quaternion wxyz [B, 4] in its parent's frame, as the MJCF has them.

    The problem's constructor has already moved the bodies `fixtures` in the model: their poses are read off its XML.
    """
    positions, quaternions = model.body_pos.copy(), model.body_quat.copy()
    for element in raw.model.worldbody.findall("./body"):
        body = model.body(element.get("name")).id
        if body in fixtures:
            positions[body] = _numbers(element.get("pos"), (0.0, 0.0, 0.0))
            quaternions[body] = _numbers(element.get("quat"), (1.0, 0.0, 0.0, 0.0))
    return positions, quaternions


def _numbers(text: str | None, default: tuple[float, ...]) -> np.ndarray:
    return np.array(default) if text is None else np.array([float(x) for x in text.split()])
