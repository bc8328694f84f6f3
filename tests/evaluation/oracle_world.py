"""A world for the oracle without MuJoCo: a hand that integrates its deltas and must end closed at the target.

Imported by simulator processes, so without torch. State: hand (3, m), target (3, m), one number more.
"""

from __future__ import annotations

import numpy as np

from configs.choices import Subset
from configs.data import EnvConfig
from tests.evaluation.fakes import NoTracker

FACTORY = "tests.evaluation.oracle_world:ReachEnv"
BROKEN = "tests.evaluation.oracle_world:BrokenEnv"
UPSIDE_DOWN = "tests.evaluation.oracle_world:UpsideDownEnv"
SHELVED = "tests.evaluation.oracle_world:ShelvedEnv"
INVERTED = "tests.evaluation.oracle_world:InvertedEnv"
ENV = EnvConfig(assets="builtin", resolution=64)
TOLERANCE_M = 0.02


class ReachEnv:
    """See the module."""

    instruction = "reach"

    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        self.task_name = f"task_{task_id}"
        self._hand, self._target, self._closed = np.zeros(3), np.zeros(3), False

    def reset(self, seed: int, init_state: np.ndarray) -> None:
        self._hand, self._target = init_state[:3].copy(), init_state[3:6].copy()
        self._closed = False

    def state(self) -> np.ndarray:
        return np.concatenate([self._hand, self._target, [0.0]])

    def fixture_poses(self) -> dict[str, tuple[float, ...]]:
        return {}

    def settle(self, steps: int) -> None:
        raise AssertionError("these recordings begin settled")

    def step(self, action: np.ndarray) -> bool:
        self._hand += 0.05 * action[:3]
        self._closed = self.closes(action[6])
        return self.success()

    def closes(self, command: float) -> bool:
        return bool(command > 0)

    def success(self) -> bool:
        return self._closed and bool(np.linalg.norm(self._hand - self._target) < TOLERANCE_M)

    def render(self, camera: str) -> np.ndarray:
        return picture(self._hand)

    def fingerprint(self) -> dict[str, str]:
        return {"simulator": "fake"}

    def tracker(self) -> NoTracker:
        return NoTracker()

    def close(self) -> None:
        pass


class BrokenEnv(ReachEnv):
    """Its simulator cannot step in task 0."""

    def step(self, action: np.ndarray) -> bool:
        if self.task_name == "task_0":
            raise FloatingPointError("mj_step diverged")
        return super().step(action)


class UpsideDownEnv(ReachEnv):
    """Forgets that robosuite draws bottom-up."""

    def render(self, camera: str) -> np.ndarray:
        return picture(self._hand)[::-1]


class InvertedEnv(ReachEnv):
    """A gripper that closes at -1."""

    def closes(self, command: float) -> bool:
        return bool(command < 0)


class ShelvedEnv(ReachEnv):
    """Has a fixture that no recording knows of."""

    def fixture_poses(self) -> dict[str, tuple[float, ...]]:
        return {"shelf_main": (0.0,) * 7}


def picture(hand: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3]: other shades in every corner, and the hand's place in the blue channel."""
    rows, columns = np.mgrid[0:64, 0:64]
    return np.stack([rows * 3, columns * 2, np.full_like(rows, np.clip(128 + 60 * hand[0], 0, 255))], -1).astype(
        np.uint8
    )
