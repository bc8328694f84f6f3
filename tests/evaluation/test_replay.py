"""The blind control: the mean demonstration, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Mode, Subset
from configs.data import EnvConfig
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice, SplitSlice
from data_pipeline.contract import StageContext
from data_pipeline.data_splitter import run_split
from evaluation.episodes import EpisodeKey
from evaluation.policy_api import NO_IMAGE, Observation
from evaluation.replay import ReplayPolicy, chunk_at, load_replay, mean_actions
from tests.helpers.synthetic import write_synthetic_subset

KEY = EpisodeKey(task_id=3, init_state=0, seed=0, mode="no_think")


def test_the_mean_is_over_demonstrations_still_running_and_the_gripper_decides() -> None:
    short, long = np.full((2, 7), 0.2), np.full((4, 7), 0.6)
    short[:, 6], long[:, 6] = -1, [-1, 1, 1, 1]
    mean = mean_actions([short, long])
    np.testing.assert_allclose(mean[:, 0], [0.4, 0.4, 0.6, 0.6], rtol=1e-6)
    assert mean[:, 6].tolist() == [-1, -1, 1, 1]


def test_past_the_end_the_hand_stays_as_it_is() -> None:
    mean = mean_actions([np.full((3, 7), 0.5)])
    chunk = chunk_at(mean, step=2, horizon=3)
    np.testing.assert_array_equal(chunk[0], mean[2])
    np.testing.assert_array_equal(chunk[1:], [[0, 0, 0, 0, 0, 0, 1]] * 2)
    np.testing.assert_array_equal(chunk_at(mean, step=200, horizon=1), [[0, 0, 0, 0, 0, 0, 1]])


def test_it_looks_at_the_clock_only() -> None:
    policy = ReplayPolicy({3: np.arange(70, dtype=np.float32).reshape(10, 7)}, horizon=4)
    dark, bright = (
        Observation(np.full((8, 8, 3), v, np.uint8), "go", think=False, step=4, episode=KEY) for v in (0, 255)
    )
    first, second = policy.act([dark, bright])
    np.testing.assert_array_equal(first.actions, second.actions)
    assert first.actions[0, 0] == 28


def test_it_is_made_from_training_demonstrations_of_the_tasks(tmp_path: Path) -> None:
    data, split = tmp_path / "data", tmp_path / "split"
    data.mkdir()
    split.mkdir()
    write_synthetic_subset(data, Subset.OBJECT, tasks=(0, 3), demos=4)
    run_split(SplitSlice(Subset.OBJECT, test_fraction=0.25, seed=1), StageContext(split, {"regenerate": data}))
    config = EvaluateSlice(Subset.OBJECT, (0, 3), (Mode.NO_THINK,), EvalConfig(), EnvConfig(), TrainerConfig(), 4)
    subject = load_replay(config, data, split)
    decision = subject.policy.act([Observation(NO_IMAGE, "reworded", think=False, step=0, episode=KEY)])[0]
    assert decision.actions.shape == (4, 7)
    assert subject.adapter == load_replay(config, data, split).adapter
    other = EvaluateSlice(Subset.OBJECT, (0, 5), (Mode.NO_THINK,), EvalConfig(), EnvConfig(), TrainerConfig(), 4)
    with pytest.raises(ConfigError, match=r"no training demonstration of task \[5\]"):
        load_replay(other, data, split)
