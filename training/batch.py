"""Samples as token sequences and images -> Batch, by one collator for every phase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from configs.choices import Role
from training.layout import IGNORE, ROLES, Layout, TokenSequence
from training.tags import NO_TAG, tag_numbers
from training.tiny_backbone import MERGE, PATCH

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP, as Qwen2.5-VL's processor has them, for values in [0, 1]
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Batch:
    """Tensors of B samples padded on the right to S tokens."""

    input_ids: torch.Tensor  # int64 [B, S]
    positions: torch.Tensor  # int64 [3, B, S]: time, row, column; 0 on padding
    labels: torch.Tensor  # int64 [B, S], IGNORE where not a target
    loss_weights: torch.Tensor  # float32 [B, S], within the role's mean
    role: torch.Tensor  # int64 [B, S], index into layout.ROLES
    tags: torch.Tensor  # int64 [B, S], see tags.tag_numbers
    images: torch.Tensor  # uint8 [B, size, size, 3], ROT180, as the policy sees them

    @property
    def real(self) -> torch.Tensor:
        """Bool [B, S]: not padding."""
        first = torch.arange(self.input_ids.shape[1], device=self.input_ids.device) == 0
        return (self.positions.amax(0) > 0) | first

    def pieces(self, rows: int) -> Iterator[Batch]:
        """The same samples in batches of at most `rows`; 0: in one."""
        step = rows or len(self.input_ids)
        for first in range(0, len(self.input_ids), step):
            own = slice(first, first + step)
            parts = {f.name: getattr(self, f.name)[own] for f in fields(self) if f.name != "positions"}
            yield Batch(**parts, positions=self.positions[:, own])

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
    tags = np.full((count, longest), NO_TAG, np.int64)
    real = np.zeros((count, longest), bool)
    for row, sequence in enumerate(sequences):
        end = len(sequence.ids)
        tags[row, :end] = tag_numbers(sequence.ids, sequence.roles, layout)
        ids[row, :end], labels[row, :end] = sequence.ids, sequence.labels
        weights[row, :end], roles[row, :end], real[row, :end] = sequence.weights, sequence.roles, True
    return Batch(
        input_ids=torch.from_numpy(ids),
        positions=torch.from_numpy(rope_positions(ids, real, layout.vocabulary.image)),
        labels=torch.from_numpy(labels),
        loss_weights=torch.from_numpy(weights),
        role=torch.from_numpy(roles),
        tags=torch.from_numpy(tags),
        images=torch.from_numpy(images),
    )


def rope_positions(ids: np.ndarray, mask: np.ndarray, image: int) -> np.ndarray:
    """Qwen2.5-VL's positions (time, row, column) of prompts with one square image each, int64 [3, B, T].

    A text token takes one position, the same on every axis; an image of n x n tokens takes n, spread over its rows and
    columns. Padding gets 0.
    """
    seen = ids == image
    side = int(seen[0].sum() ** 0.5)
    at = mask.cumsum(1) - 1
    within = seen.cumsum(1) - 1  # of an image token: its number in the image
    start = at - within
    axes = np.stack([start, start + within // side, start + within % side])
    text = np.where(within < 0, at, at - side * side + side)
    return np.where(mask, np.where(seen, axes, text), 0)


def patches(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, S, S, 3] -> float32 [B * (S / 14)^2, 588], normalised, in Qwen2.5-VL's order of patches.

    Patches of one visual token (2 x 2) stand together; within a patch: channel, row, column. The processor writes each
    channel twice, as two frames in time; `vision_tower` has no need of that.
    """
    count, size = images.shape[:2]
    grid = size // (PATCH * MERGE)
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(3, 1) * 255
    std = torch.tensor(IMAGE_STD, device=images.device).view(3, 1) * 255
    cut = images.view(count, grid, MERGE, PATCH, grid, MERGE, PATCH, 3)
    ordered = cut.permute(0, 1, 4, 2, 5, 7, 3, 6)  # [B, rows, columns, 2, 2, 3, 14, 14], moved as bytes
    pixels = (ordered.reshape(-1, 3, PATCH * PATCH).float() - mean) / std
    return pixels.flatten(1)


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
