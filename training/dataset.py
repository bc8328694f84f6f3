"""Episodes + sidecars -> Sample: every training step of some demonstrations, numbered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import ConfigError
from configs.choices import Subset
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import AGENTVIEW, Annotation, Episode, EpisodeId, FlowTokens, Sample
from data_pipeline.image_frame import policy_image

IN_MEMORY_BYTES = 2 << 30
"""Resized frames up to this size stay in memory; beyond it they lie in a file of the work folder."""

REASONING = "reasoning"
FLOW = "flow"
ACTION = "action"


@dataclass(frozen=True)
class TrainingEpisode:
    """One episode with all but its images."""

    id: EpisodeId
    instruction: str
    actions: np.ndarray  # float32 [T, 7], normalised
    first_frame: int  # row of step 0 among the frames
    annotation: Annotation | None
    flow: FlowTokens | None


@dataclass(frozen=True)
class TrainingData:
    """Every training step of some episodes, numbered 0..N-1."""

    episodes: tuple[TrainingEpisode, ...]
    frames: np.ndarray  # uint8 [N, S, S, 3], ROT180, the policy's size; row = sample number
    owner: np.ndarray  # int64 [N]: number of the episode a sample belongs to
    horizon: int

    def __len__(self) -> int:
        """N."""
        return len(self.owner)

    def where(self, number: int) -> tuple[EpisodeId, int]:
        """Episode and step of a sample."""
        episode = self.episodes[self.owner[number]]
        return episode.id, number - episode.first_frame

    def sample(self, number: int) -> Sample:
        """Everything one step offers to any phase."""
        episode = self.episodes[self.owner[number]]
        step = number - episode.first_frame
        parts: dict[str, Any] = {ACTION: action_chunk(episode.actions, step, self.horizon)}
        if episode.annotation is not None:
            parts[REASONING] = episode.annotation.steps[step]
        if episode.flow is not None:
            parts[FLOW] = flow_codes(episode.flow, step)
        return Sample(episode.id, step, self.frames[number], episode.instruction, parts)

    def elsewhere(self, number: int, rng: np.random.Generator) -> Sample:
        """A sample of any episode but that of `number`, all of them equally likely."""
        episode = self.episodes[self.owner[number]]
        own = len(episode.actions)
        if own == len(self):
            raise ConfigError("shuffled segments need at least two training demonstrations; this split has one")
        drawn = int(rng.integers(len(self) - own))
        return self.sample(drawn if drawn < episode.first_frame else drawn + own)


def action_chunk(actions: np.ndarray, step: int, horizon: int) -> np.ndarray:
    """Actions [T, 7] from `step` on: [horizon, 7]; past the episode's end the last one is repeated."""
    return actions[np.minimum(np.arange(step, step + horizon), len(actions) - 1)]


def flow_codes(flow: FlowTokens, step: int) -> np.ndarray | None:
    """Codes [N] of a step; None near the episode's end, where the horizon is cut by more than half."""
    return flow.codes[step] if 2 * int(flow.k_effective[step]) >= flow.k else None


def load_training_data(
    episodes: Iterable[Episode],
    statistics: Mapping[Subset, ActionStatistics],
    horizon: int,
    image_size: int,
    overflow: Path,
    annotations: Mapping[EpisodeId, Annotation] | None = None,
    flow: Mapping[EpisodeId, FlowTokens] | None = None,
) -> TrainingData:
    """Read episodes. statistics: by subset. overflow: file for frames that do not fit in memory.

    annotations, flow: None where the phase does not need them; a missing episode raises ConfigError.
    """
    listed, first = [], 0
    opened = list(episodes)
    for episode in opened:
        listed.append(
            TrainingEpisode(
                id=episode.id,
                instruction=episode.instruction,
                actions=statistics[episode.id.subset].normalize(episode.actions),
                first_frame=first,
                annotation=_entry(annotations, episode, "annotations"),
                flow=_entry(flow, episode, "flow tokens"),
            )
        )
        first += episode.num_steps
    owner = np.repeat(np.arange(len(opened)), np.array([e.num_steps for e in opened], int))
    frames = _frame_store((first, image_size, image_size, 3), overflow)
    for episode, entry in zip(opened, listed, strict=True):
        for offset, image in enumerate(episode.frames(AGENTVIEW)):
            frames[entry.first_frame + offset] = policy_image(image, image_size)
    return TrainingData(tuple(listed), frames, owner, horizon)


def _entry(sidecar: Mapping[EpisodeId, Any] | None, episode: Episode, name: str) -> Any:
    if sidecar is None:
        return None
    if episode.id not in sidecar:
        raise ConfigError(f"the {name} have no entry for {episode.id}; make them anew for this data set")
    entry = sidecar[episode.id]
    steps = len(entry.steps) if isinstance(entry, Annotation) else len(entry.codes)
    if steps != episode.num_steps:
        raise ConfigError(
            f"the {name} of {episode.id} have {steps} steps, the episode {episode.num_steps}; make them anew"
        )
    return entry


def _frame_store(shape: tuple[int, ...], overflow: Path) -> np.ndarray:
    if int(np.prod(shape)) <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    return np.lib.format.open_memmap(overflow, mode="w+", dtype=np.uint8, shape=shape)
