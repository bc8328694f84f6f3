"""Controls: policies that are not trained, through the same engine, protocol and ledger as those that are.

`zero` and `random` say what the task gives away for nothing, and the expert says what the simulator, the protocol and
the step limit allow a policy that makes no mistake of seeing. (`evaluation.replay` is the control made of
demonstrations.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.choices import Control
from configs.slices import ControlSlice
from data_pipeline.contract import ACTION_DIM, GRIPPER_OPEN, StageContext, digest
from evaluation.episodes import Shows
from evaluation.libero_eval import Subject, evaluate, executed
from evaluation.policy_api import Decision, Observation, Policy
from evaluation.simulators import shared_pool


class ZeroPolicy:
    """Stays where it is with the gripper open."""

    def __init__(self, horizon: int) -> None:
        self._chunk = np.zeros((horizon, ACTION_DIM), np.float32)
        self._chunk[:, -1] = GRIPPER_OPEN

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """The same to everyone."""
        return [Decision(self._chunk) for _ in observations]


class RandomPolicy:
    """Uniform actions in [-1, 1], gripper included. Each follows from (episode, step) alone, whatever the horizon."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """Needs `episode`."""
        return [Decision(self._chunk(o)) for o in observations]

    def _chunk(self, observation: Observation) -> np.ndarray:
        key = observation.episode
        assert key is not None, "a query without its episode"
        steps = range(observation.step, observation.step + self._horizon)
        draws = [np.random.default_rng([key.task_id, key.init_state, key.seed, step]) for step in steps]
        return np.stack([rng.uniform(-1.0, 1.0, ACTION_DIM) for rng in draws]).astype(np.float32)


class ExpertPolicy:
    """Does what the scripted expert advises, one step at a time: the advice is for the present state."""

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """Needs `advice`."""
        return [_heed(o.advice) for o in observations]


def _heed(advice: np.ndarray | str | None) -> Decision:
    assert advice is not None, "a query without advice"
    if isinstance(advice, str):
        return Decision(np.zeros((0, ACTION_DIM), np.float32), gives_up=advice)
    return Decision(advice[None])


def make_control(control: Control, horizon: int) -> Subject:
    """A control as what is evaluated. horizon: steps per query, but for the expert, whose own number is 1."""
    policy: Policy
    match control:
        case Control.ZERO:
            policy, label, shows, execute = ZeroPolicy(horizon), "Zero (blind control)", Shows.NOTHING, 0
        case Control.RANDOM:
            policy, label, shows, execute = RandomPolicy(horizon), "Random (blind control)", Shows.NOTHING, 0
        case Control.EXPERT:
            policy, label, shows, execute = ExpertPolicy(), "Expert (control, reads the state)", Shows.EXPERT, 1
        case Control.REPLAY:
            raise AssertionError("made of demonstrations: evaluation.replay")
    card = {"phase": {"name": control.value, "label": label}}
    return Subject(policy, digest({"control": control.value}), card, shows, execute)


def run_control(config: ControlSlice, context: StageContext) -> list[str]:
    """Stage `control`: like `evaluate`, of a policy that needs no input. config.modes is no_think alone."""
    subject = make_control(config.control, executed(config))
    with shared_pool(config.eval, config.env) as pool:
        return evaluate(config, context, subject, pool)
