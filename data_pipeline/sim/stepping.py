"""One control step of robosuite, without what nobody reads.

robosuite computes, per substep of 2 ms, the whole dynamics three times: in the environment, in the controller and in
MuJoCo's own step. The second and third differ from the first only in what is applied, so that positions, velocities and
contacts need not be computed again; the constraint solver must be run each time, because each run warm-starts the
next. `exact` keeps the three runs and is bit for bit robosuite's. `fast` keeps one: it is not bit-exact in contact.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Stepper:
    """Steps a robosuite environment with one arm."""

    def __init__(self, raw: Any, fast: bool) -> None:  # noqa: FBT001 - Stepping has two members
        self._raw, self._fast = raw, fast
        self._substeps = int(raw.control_timestep / raw.model_timestep)

    def step(self, action: np.ndarray) -> None:
        """action: float64 [7]."""
        raw = self._raw
        for substep in range(self._substeps):
            raw.sim.forward()
            raw._pre_action(action, substep == 0)
            raw.sim.step()
        raw.timestep += 1
        raw.cur_time += raw.control_timestep
        raw._post_process()
