"""LIBERO as the reference evaluators drive it (OpenVLA's and NORA's `run_libero_eval.py`), for `bench_eval.py`.

LIBERO's own OffScreenRenderEnv with its defaults: every reset compiles the model and makes a GL context (hard reset),
every step renders both cameras at 256 px and samples every observable, the stepping is robosuite's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.choices import Subset
from configs.data import EnvConfig
from data_pipeline import libero_utils
from data_pipeline.contract import AGENTVIEW
from data_pipeline.sim import assets
from data_pipeline.sim.boot import boot, libero_root, quiet

FACTORY = "benchmarks.reference_env:ReferenceEnv"
RESOLUTION = 256  # pixels, square: both scripts ask for it
NO_OP = np.array([0.0] * 6 + [-1.0])


class _NoTracker:
    """A `Tracker` of `evaluation.sim_worker` that sees nothing."""

    def begin(self) -> None:
        """Nothing."""

    def update(self) -> None:
        """Nothing."""

    def record(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class ReferenceEnv:
    """An `Env` of `evaluation.sim_worker`. Of the settings only the assets count."""

    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        boot()
        import libero.libero as libero_package  # after boot: its first import asks questions
        from libero.libero.envs import OffScreenRenderEnv

        from data_pipeline.sim.problem import official_init_states

        package: Any = libero_package
        package._assets_path_cache = str(assets.resolve(config.assets).path)
        self.task_name = libero_utils.task_names(subset)[task_id]
        self.instruction = libero_utils.instruction(self.task_name)
        suite = libero_utils.SUITE_OF[subset]
        self._states = official_init_states(subset, self.task_name)
        bddl = libero_root() / "bddl_files" / suite / f"{self.task_name}.bddl"
        with quiet():
            self._env: Any = OffScreenRenderEnv(
                bddl_file_name=str(bddl), camera_heights=RESOLUTION, camera_widths=RESOLUTION
            )
        self._env.seed(0)
        self._observation: dict[str, np.ndarray] = {}

    def reset(self, seed: int, init_state: int) -> None:
        """Reset, then put the official initial state in place; the seed was given once, at construction."""
        del seed
        with quiet():
            self._env.reset()
        self._observation = self._env.set_init_state(self._states[init_state])

    def settle(self, steps: int) -> None:
        """Wait for the objects to fall."""
        for _ in range(steps):
            self.step(NO_OP)

    def step(self, action: np.ndarray) -> bool:
        """One step with everything that is observed after it."""
        self._observation, _, done, _ = self._env.step(action.tolist())
        return bool(done)

    def success(self) -> bool:
        """Whether the goal holds."""
        return bool(self._env.check_success())

    def render(self, camera: str) -> np.ndarray:
        """The picture that the last step has made: uint8 [256, 256, 3]."""
        assert camera == AGENTVIEW
        return self._observation["agentview_image"]

    def fingerprint(self) -> dict[str, Any]:
        """Nothing is recorded of it."""
        return {}

    def tracker(self) -> _NoTracker:
        """The reference evaluators note nothing but success."""
        return _NoTracker()

    def close(self) -> None:
        """Free the GL context."""
        self._env.close()
