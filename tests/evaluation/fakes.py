"""A simulator and a policy without MuJoCo and without a model, for tests of the engine. Importable by child processes.

The world is one number: it starts at a value drawn from (task, init state, seed) and each step adds the first
component of the action. The goal is to bring it near zero. Faults are asked for through the environment variable
FAKE_FAULTS: a JSON object "task/init_state" -> {"kind": kind, "attempts": n, "log": path}, where kind is segfault,
sigkill or hang (at the reset), no_gl (at the first picture) or unstable (at the third step).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.choices import Subset
from configs.data import EnvConfig
from data_pipeline.contract import EnvironmentProblem, SimulationUnstableError
from evaluation.policy_api import Decision, Observation

FACTORY = "tests.evaluation.fakes:FakeEnv"
UNDRAWN = "tests.evaluation.fakes:UndrawnEnv"
NO_GL = "tests.evaluation.fakes:NoGlEnv"
OF_TWO_KINDS = "tests.evaluation.fakes:EachItsOwnEnv"
ENV = EnvConfig(assets="builtin", resolution=64)
DIES_AT_IMPORT = "tests.evaluation.fakes:not_there"


class FakeEnv:
    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        self.task_name, self.instruction = f"task_{task_id}", f"do task {task_id}"
        self._task, self._config = task_id, config
        self._value, self._init = 0.0, 0
        self._steps, self._fault = 0, ""

    def reset(self, seed: int, init_state: int) -> None:
        self._init, self._steps = init_state, 0
        self._value = float(np.random.default_rng((self._task, init_state, seed)).uniform(0.2, 3.0))
        self._maybe_break()

    def settle(self, steps: int) -> None:
        assert steps == 10

    def step(self, action: np.ndarray) -> bool:
        time.sleep(float(os.environ.get("FAKE_STEP_S", "0")))
        self._value += float(action[0])
        self._steps += 1
        if self._fault == "unstable" and self._steps == 3:
            raise SimulationUnstableError("the arm left the building")
        return self.success()

    def success(self) -> bool:
        return abs(self._value) < 0.05

    def render(self, camera: str) -> np.ndarray:
        if self._fault == "no_gl":
            raise RuntimeError("EGLError(\n\terr = EGL_BAD_CONTEXT,\n)")
        size = self._config.resolution
        image = np.zeros((size, size, 3), np.uint8)
        image[..., 0] = np.clip(128 + self._value * 40, 0, 255)
        image[: size // 4] = (20 * self._task, 120, 40)
        return image

    def fingerprint(self) -> dict[str, str]:
        return {"simulator": "fake", "look": self._config.look.value}

    def tracker(self) -> FakeTracker:
        return FakeTracker(self)

    def close(self) -> None:
        pass

    def _maybe_break(self) -> None:
        self._fault = ""
        fault = json.loads(os.environ.get("FAKE_FAULTS", "{}")).get(f"{self._task}/{self._init}")
        if fault is None:
            return
        log = Path(fault["log"])
        log.touch()
        with log.open("a") as stream:
            stream.write("x")
        if log.stat().st_size <= fault["attempts"]:
            match fault["kind"]:
                case "segfault":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "sigkill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(600)
                case later:
                    self._fault = later


class FakeTracker:
    """The value as a joint that should be closed."""

    def __init__(self, env: FakeEnv) -> None:
        self._env = env
        self._values: list[float] = []

    def begin(self) -> None:
        self._values = [self._env._value]

    def update(self) -> None:
        self._values.append(self._env._value)

    def record(self) -> dict[str, object]:
        share = [round(1 - abs(value) / abs(self._values[0]), 3) for value in self._values]
        moved = len(set(self._values)) > 1
        goal = {"goal": "close value_1", "implied": False, "first": None, "end": False, "closest_m": 0.0}
        joint = {"touched": 1 if moved else None, "progress_max": max(share), "progress_end": share[-1]}
        return {"objects": {}, "goals": [goal | joint], "parts": {}}


class NoTracker:
    """Of a world without objects."""

    def begin(self) -> None:
        pass

    def update(self) -> None:
        pass

    def record(self) -> dict[str, object]:
        return {}


class UndrawnEnv(FakeEnv):
    """For policies that do not look."""

    def render(self, camera: str) -> np.ndarray:
        raise AssertionError("a picture was drawn")


class NoGlEnv(FakeEnv):
    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        raise EnvironmentProblem("no GL here; apt-get install libegl1")


class EachItsOwnEnv(FakeEnv):
    def fingerprint(self) -> dict[str, str]:
        return {**super().fingerprint(), "renderer": f"process {os.getpid()}"}


class FakePolicy:
    """Reads the value off the picture's red channel and walks towards zero, overshooting a little after four steps."""

    def __init__(self, *, blind_to: tuple[str, ...] = (), nan_at: tuple[str, ...] = (), delay_s: float = 0.0) -> None:
        self.blind_to, self.nan_at, self.delay_s = blind_to, nan_at, delay_s
        self.batches: list[int] = []

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        time.sleep(self.delay_s)
        self.batches.append(len(observations))
        return [self._decide(o) for o in observations]

    def _decide(self, observation: Observation) -> Decision:
        value = (float(observation.image[-1, 0, 0]) - 128) / 40
        actions = np.zeros((8, 7), np.float32)
        if observation.instruction not in self.blind_to:
            actions[:, 0] = -np.clip(value / 4, -0.2, 0.2)
        if observation.instruction in self.nan_at:
            actions[0, 0] = np.nan
        if not observation.think:
            return Decision(actions, tokens=7)
        fresh = not observation.kept
        text = f"TASK: {observation.instruction} MOVE: <b>left</b> & at step {observation.step}" if fresh else ""
        return Decision(actions, (1, 2, 3), text, tokens=40 if fresh else 7)
