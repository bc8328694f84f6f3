"""Episodes + sidecars -> Sample; samples -> Batch, by one collator for every phase.

What a step trains on is a pure function of (seed, step): the order, the reasoning draws and the image shifts depend
neither on workers nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from configs.choices import DropoutVariant, Role
from configs.schema import ConfigError
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import AGENTVIEW, Annotation, Episode, EpisodeId, FlowTokens, Sample
from data_pipeline.image_frame import policy_image
from training.corruption import corrupted
from training.layout import (
    IGNORE,
    ROLES,
    Layout,
    TokenSequence,
    draw_dropped,
    flatten,
    sample_generator,
    spans,
)
from training.tiny_backbone import MERGE, PATCH

IN_MEMORY_BYTES = 2 << 30
"""Resized frames up to this size stay in memory; beyond it they lie in a file of the work folder."""

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP, as Qwen2.5-VL's processor has them, for values in [0, 1]
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
TEMPORAL_PATCH = 2  # a still image is shown twice

REASONING = "reasoning"
FLOW = "flow"
ACTION = "action"


# ------------------------------------------------------------------ episodes -> samples


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
    statistics: Mapping[Any, ActionStatistics],
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
    owner = np.repeat(np.arange(len(opened)), [e.num_steps for e in opened])
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


# ------------------------------------------------------------------ samples -> batch


@dataclass(frozen=True)
class Batch:
    """Tensors of B samples padded on the right to S tokens; V visual patches in all."""

    input_ids: torch.Tensor  # int64 [B, S]
    attention_mask: torch.Tensor  # int64 [B, S], 0 on padding
    mm_token_type_ids: torch.Tensor  # int32 [B, S], 1 on image tokens: without it positions silently become 1-D
    labels: torch.Tensor  # int64 [B, S], IGNORE where not a target
    loss_weights: torch.Tensor  # float32 [B, S], within the role's mean
    role: torch.Tensor  # int64 [B, S], index into layout.ROLES
    pixel_values: torch.Tensor  # float32 [V, 1176]
    image_grid_thw: torch.Tensor  # int64 [B, 3], patches in time, rows, columns

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


def collate(sequences: Sequence[TokenSequence], images: np.ndarray, layout: Layout) -> Batch:
    """Pad on the right and stack. images: uint8 [B, S, S, 3]."""
    count, longest = len(sequences), max(len(s.ids) for s in sequences)
    ids = np.full((count, longest), layout.vocabulary.pad, np.int64)
    labels = np.full((count, longest), IGNORE, np.int64)
    weights = np.zeros((count, longest), np.float32)
    roles = np.full((count, longest), ROLES.index(Role.PROMPT), np.int64)
    mask = np.zeros((count, longest), np.int64)
    for row, sequence in enumerate(sequences):
        end = len(sequence.ids)
        ids[row, :end], labels[row, :end] = sequence.ids, sequence.labels
        weights[row, :end], roles[row, :end], mask[row, :end] = sequence.weights, sequence.roles, 1
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        mm_token_type_ids=torch.from_numpy((ids == layout.vocabulary.image).astype(np.int32)),
        labels=torch.from_numpy(labels),
        loss_weights=torch.from_numpy(weights),
        role=torch.from_numpy(roles),
        pixel_values=patchify(torch.from_numpy(images)),
        image_grid_thw=image_grid(count, images.shape[1]),
    )


def patchify(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, S, S, 3] -> float32 [B * (S / 14)^2, 1176], normalised, in Qwen2.5-VL's order of patches.

    Patches of one visual token (2 x 2) stand together; within a patch: channel, time, row, column.
    """
    once = patches(images).view(-1, 3, 1, PATCH * PATCH)
    return once.expand(-1, 3, TEMPORAL_PATCH, PATCH * PATCH).reshape(len(once), -1)


def patches(images: torch.Tensor) -> torch.Tensor:
    """The same without the repetition in time: float32 [B * (S / 14)^2, 588]; channel, row, column."""
    count, size = images.shape[:2]
    grid = size // (PATCH * MERGE)
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGE_STD, device=images.device).view(3, 1, 1) * 255
    pixels = (images.permute(0, 3, 1, 2).float() - mean) / std  # [B, 3, S, S]
    cut = pixels.view(count, 3, grid, MERGE, PATCH, grid, MERGE, PATCH)
    ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, rows, columns, 2, 2, 3, 14, 14]
    return ordered.reshape(count * (grid * MERGE) ** 2, 3 * PATCH * PATCH)


def image_grid(count: int, image_size: int) -> torch.Tensor:
    """int64 [count, 3]: what the model is told about each square image."""
    side = image_size // PATCH
    return torch.tensor([[1, side, side]]).expand(count, 3).contiguous()


def shift_image(image: np.ndarray, shift_px: int, rng: np.random.Generator) -> np.ndarray:
    """Move image [S, S, 3] by up to shift_px pixels per axis; the edge is repeated."""
    if shift_px == 0:
        return image
    size = len(image)
    x, y = rng.integers(-shift_px, shift_px + 1, 2)
    rows = np.clip(np.arange(size) + y, 0, size - 1)
    columns = np.clip(np.arange(size) + x, 0, size - 1)
    return image[rows[:, None], columns]


# ------------------------------------------------------------------ (seed, step) -> what the step trains on


@dataclass(frozen=True)
class SamplingPlan:
    """How steps draw their samples."""

    seed: int
    batch_size: int  # samples per forward pass, at most
    accumulation: int
    reasoning_dropout_prob: float  # probability of no reasoning at all, or of each of its pieces
    shift_px: int = 0
    variant: DropoutVariant = DropoutVariant.WHOLE

    @property
    def global_batch(self) -> int:
        """Samples per optimiser step."""
        return self.batch_size * self.accumulation


@dataclass(frozen=True)
class StepInput:
    """One optimiser step: the global batch in pieces, and what its losses are divided by."""

    batches: tuple[Batch, ...]
    totals: Mapping[Role, float]  # sum of loss weights per role over the whole global batch


def numbers_of_step(step: int, seed: int, global_batch: int, size: int) -> list[tuple[int, int]]:
    """(epoch, sample number) of each sample of optimiser step `step` (from 0): every epoch is a permutation."""
    positions = range(step * global_batch, (step + 1) * global_batch)
    return [(p // size, int(_permutation(seed, p // size, size)[p % size])) for p in positions]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class StepInputs(Dataset[StepInput]):
    """Item `step` is that step's input: a map, so that any worker can make any step."""

    def __init__(self, data: TrainingData, layout: Layout, plan: SamplingPlan, steps: int) -> None:
        self._data, self._layout, self._plan, self._steps = data, layout, plan, steps
        if len(data) == 0:
            raise ConfigError("there is no training step: the split has no training demonstrations")

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> StepInput:
        chosen = numbers_of_step(step, self._plan.seed, self._plan.global_batch, len(self._data))
        drawn = [self._draw(epoch, number) for epoch, number in chosen]
        groups = micro_batches([reasons for _, _, reasons in drawn], self._plan.batch_size)
        batches = tuple(
            collate([drawn[i][0] for i in group], np.stack([drawn[i][1] for i in group]), self._layout)
            for group in groups
        )
        return StepInput(batches, role_totals([sequence for sequence, _, _ in drawn]))

    def _draw(self, epoch: int, number: int) -> tuple[TokenSequence, np.ndarray, bool]:
        """One sample as tokens and image, and whether it reasons."""
        plan = self._plan
        key = (plan.seed, epoch, *self._data.where(number))
        other = partial(self._data.elsewhere, number)
        sample = corrupted(self._data.sample(number), self._layout.phase, other, plan.seed, epoch)
        written = spans(self._layout, sample, draw_dropped(plan.variant, plan.reasoning_dropout_prob, *key))
        image = (
            shift_image(sample.image, plan.shift_px, sample_generator(*key, "shift")) if plan.shift_px else sample.image
        )
        return flatten(written), image, len(written) > 2


def micro_batches(reasons: Sequence[bool], batch_size: int) -> list[list[int]]:
    """Positions of a global batch in pieces of at most batch_size, samples with and without reasoning apart.

    Long and short sequences do not pad each other; the loss does not notice, as its totals are those of the whole.
    """
    kinds = ([i for i, r in enumerate(reasons) if not r], [i for i, r in enumerate(reasons) if r])
    return [kind[i : i + batch_size] for kind in kinds for i in range(0, len(kind), batch_size)]


def role_totals(sequences: Sequence[TokenSequence]) -> dict[Role, float]:
    """Sum of the targets' loss weights per role; roles without a target are left out."""
    weights = np.concatenate([s.weights for s in sequences])
    roles = np.concatenate([s.roles for s in sequences])
    sums = np.bincount(roles, weights, minlength=len(ROLES))
    return {role: float(total) for role, total in zip(ROLES, sums, strict=True) if total > 0}
