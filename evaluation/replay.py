"""The control beside every number: a policy that does not look.

It executes the mean action that the training demonstrations of a task took at each time step. Objects hardly move
between LIBERO's initial states, so this alone solves some tasks; a policy that does not beat it has not been shown
to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from configs.checks import check
from configs.choices import Control
from configs.slices import EvaluateSlice
from data_pipeline.contract import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, StageContext, digest
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.raw_loader import Hdf5Source
from evaluation.episodes import Shows
from evaluation.libero_eval import Subject, evaluate, executed
from evaluation.policy_api import Decision, Observation
from evaluation.simulators import shared_pool


class ReplayPolicy:
    """Mean demonstration action per time step. means: task id -> float32 [T, 7], environment convention."""

    def __init__(self, means: Mapping[int, np.ndarray], horizon: int) -> None:
        self._means = means
        self._horizon = horizon

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """Looks at the clock only, and needs `episode`: an instruction may be reworded."""
        return [Decision(self._chunk(o)) for o in observations]

    def _chunk(self, observation: Observation) -> np.ndarray:
        assert observation.episode is not None, "a query without its episode"
        return chunk_at(self._means[observation.episode.task_id], observation.step, self._horizon)


def chunk_at(mean: np.ndarray, step: int, horizon: int) -> np.ndarray:
    """Rows step..step+horizon of mean [T, 7]; past the end the hand stays where it is, float32 [horizon, 7]."""
    chunk = np.zeros((horizon, ACTION_DIM), np.float32)
    chunk[:, -1] = mean[-1, -1]
    rows = mean[step : step + horizon]
    chunk[: len(rows)] = rows
    return chunk


def mean_actions(demonstrations: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the demonstrations still running at each step, each float [T_i, 7]; the gripper by majority.

    Returns float32 [max T, 7].
    """
    longest = max(len(actions) for actions in demonstrations)
    mean = np.zeros((longest, ACTION_DIM), np.float64)
    for step in range(longest):
        mean[step] = np.mean([actions[step] for actions in demonstrations if step < len(actions)], axis=0)
    mean[:, -1] = np.where(mean[:, -1] > 0, GRIPPER_CLOSE, GRIPPER_OPEN)
    return mean.astype(np.float32)


def load_replay(config: EvaluateSlice, regenerate: Path, split: Path) -> Subject:
    """The control for one subset, from its training demonstrations. Raises ConfigError where a task has none."""
    source = Hdf5Source(regenerate, config.subset)
    by_task: dict[int, list[np.ndarray]] = {task: [] for task in config.tasks}
    for episode in load_split(split / SPLIT_FILE).train:
        if episode.task_id in by_task:
            by_task[episode.task_id].append(source.open(episode).actions)
    missing = [task for task, demonstrations in by_task.items() if not demonstrations]
    check(not missing, f"the replay control has no training demonstration of task {missing} of {config.subset.value}")
    means = {task: mean_actions(demonstrations) for task, demonstrations in by_task.items()}
    policy = ReplayPolicy(means, executed(config))
    identity = digest({str(task): mean.tolist() for task, mean in means.items()})
    card = {"phase": {"name": Control.REPLAY.value, "label": "Replay (blind control)"}}
    return Subject(policy, identity, card, shows=Shows.NOTHING)


def run_replay(config: EvaluateSlice, context: StageContext) -> list[str]:
    """Stage `replay`: like `evaluate`, of the control. Inputs `regenerate`, `split`; config.modes is no_think alone."""
    subject = load_replay(config, context.inputs["regenerate"], context.inputs["split"])
    with shared_pool(config.eval, config.env) as pool:
        return evaluate(config, context, subject, pool)
