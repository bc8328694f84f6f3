"""Noise in transit: what is executed is disturbed, what is recorded is the expert's, and only where nothing is near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import EpisodeId
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.sim.demos import DemoJob
from data_pipeline.sim.expert.expert import TransitNoise, run_expert
from data_pipeline.sim.expert.manner import Manner


def test_it_has_the_strength_asked_for_and_leaves_the_gripper_alone() -> None:
    still = np.array([0.0] * 6 + [1.0])
    noise = TransitNoise(0.1, np.random.default_rng(0))
    executed = np.array([noise.disturb(still) for _ in range(4000)])
    assert np.allclose(executed[:, :3].std(0), 0.1, rtol=0.15)
    assert np.allclose(executed[:, 3:6].std(0), 0.015, rtol=0.15)
    assert (executed[:, 6] == 1).all()
    again = TransitNoise(0.1, np.random.default_rng(0))
    assert np.array_equal(executed[:50], [again.disturb(still) for _ in range(50)])


def test_it_never_asks_for_more_than_the_controller_takes() -> None:
    noise = TransitNoise(1.0, np.random.default_rng(0))
    assert max(np.abs(noise.disturb(np.ones(7))).max() for _ in range(200)) <= 1


def test_one_demonstration_in_seven_has_none() -> None:
    job = DemoJob(EpisodeId(Subset.OBJECT, 0, 0), 0, Path("x"), EnvConfig(), manner=Manner(noise=0.4))
    levels = [replace(job, episode=EpisodeId(Subset.OBJECT, 0, demo)).own_manner.noise for demo in range(7)]
    assert levels == pytest.approx([0.4, 0.25, 0.1, 0.4, 0.25, 0.1, 0.0])


@pytest.mark.sim
def test_the_expert_finds_back_and_nothing_is_disturbed_near_a_grasp() -> None:
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(Subset.GOAL, 8, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
    recorded: list[np.ndarray] = []
    executed: list[np.ndarray] = []
    step = env.step

    def watched(action: np.ndarray) -> bool:
        executed.append(np.asarray(action))
        return step(action)

    env.reset(3)
    env.settle(10)
    env.step = watched  # pyright: ignore[reportAttributeAccessIssue]
    noise = TransitNoise(0.4, np.random.default_rng(1))
    attempt = run_expert(env, np.random.default_rng(0), MAX_STEPS[Subset.GOAL], recorded.append, noise)
    env.close()
    assert attempt.success
    off = np.abs(np.array(executed) - np.array(recorded)).max(1) > 1e-6
    switches = np.flatnonzero(np.diff(np.array(recorded)[:, 6]))  # the fingers begin to close, or to open
    assert off.sum() > 10
    assert not any(off[max(0, s - 4) : s + 5].any() for s in switches)
