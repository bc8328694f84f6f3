"""Recordings of `oracle_world`, conversions fitted on them, and faulty ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from configs.choices import Normalization, Subset
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import Episode, EpisodeId
from data_pipeline.raw_loader import ReplayStart
from evaluation.interface import Interface
from evaluation.oracle import Recording
from tests.evaluation.oracle_world import picture
from tests.helpers.synthetic import smooth_actions
from training import action_tokenizer
from training.action_tokenizer import FastTokenizer
from training.dataset import action_chunk

HORIZON, STEPS, SIZE = 8, 60, 56


def recording(demo: int) -> Recording:
    """A demonstration that ends, closed, where its target is."""
    actions = smooth_actions(np.random.default_rng(demo), STEPS)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(0.05 * actions[:, :3], axis=0)])
    states = np.concatenate([path[:-1], np.repeat(path[-1:], STEPS, axis=0), np.zeros((STEPS, 1))], axis=1)
    opening = np.where(actions[:, 6:] < 0, 0.04, 0.01)
    episode = Episode(
        id=EpisodeId(Subset.OBJECT, demo % 2, demo),
        task_name=f"task_{demo % 2}",
        instruction="reach",
        actions=actions.astype(np.float32),
        proprio=np.concatenate([path[:-1], np.zeros((STEPS, 3)), opening, -opening], axis=1).astype(np.float32),
        states=states,
        fixtures={},
        fingerprint={"simulator": "fake"},
        success=True,
        read_frames=partial(frames, path[:-1]),
    )
    return Recording(episode, ReplayStart(actions, states, states[0], 0, None, {}, 0, {"simulator": "fake"}))


def frames(path: np.ndarray, camera: str) -> np.ndarray:
    return np.stack([picture(hand) for hand in path])


def statistics(chosen: list[Recording], dataset: str = "libero_object") -> ActionStatistics:
    """Bounds of these recordings."""
    actions = [r.episode.actions for r in chosen]
    proprio = [r.episode.proprio for r in chosen]
    return ActionStatistics.of(dataset, actions, proprio, 0.0, Normalization.BOUNDS)


def fitted(chosen: list[Recording], bounds: ActionStatistics, horizon: int = HORIZON) -> FastTokenizer:
    """A fine tokenizer of these recordings' chunks."""
    normal = [bounds.normalize(r.episode.actions) for r in chosen]
    chunks = [action_chunk(n, step, horizon) for n in normal for step in range(STEPS)]
    return action_tokenizer.fit(chunks, horizon, scale=20.0, num_codes=512)


def interface(chosen: list[Recording]) -> Interface:
    """What training on these recordings would use."""
    bounds = statistics(chosen)
    return Interface(fitted(chosen, bounds), bounds, SIZE)


class InvertedGripper(ActionStatistics):
    """Un-normalises the gripper to the opposite sign."""

    def unnormalize(self, actions: np.ndarray) -> np.ndarray:
        return super().unnormalize(actions) * np.array([1, 1, 1, 1, 1, 1, -1], np.float32)


class TurnedFrame(ActionStatistics):
    """Takes pose deltas for those of a frame turned by 180 degrees about the vertical."""

    def unnormalize(self, actions: np.ndarray) -> np.ndarray:
        return super().unnormalize(actions) * np.array([-1, -1, 1, -1, -1, 1, 1], np.float32)


class LowThreshold(ActionStatistics):
    """Decides the gripper at a value that a smoothed closing still exceeds."""

    threshold = 0.01

    def unnormalize(self, actions: np.ndarray) -> np.ndarray:
        out = super().unnormalize(actions)
        out[..., 6] = np.where(actions[..., 6] > self.threshold, -1, 1)
        return out


class ZeroThreshold(LowThreshold):
    """Decides the gripper by its sign, as if closed were -1."""

    threshold = 0.0


def planted(kind: type[ActionStatistics], good: Interface) -> Interface:
    """The same interface with statistics of a faulty kind."""
    s = good.statistics
    return replace(good, statistics=kind(s.dataset, s.mode, s.centre, s.unit, s.record))
