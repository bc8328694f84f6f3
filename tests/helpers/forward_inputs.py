"""A batch as Qwen2_5_VLForConditionalGeneration.forward takes it."""

from __future__ import annotations

import torch

from training.batch import Batch, image_grid, patches
from training.layout import Vocabulary
from training.tiny_backbone import PATCH


def forward_inputs(batch: Batch, vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """Its keyword arguments."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (batch.input_ids != vocabulary.pad).long(),
        "mm_token_type_ids": (batch.input_ids == vocabulary.image).int(),
        "pixel_values": patchify(batch.images),
        "image_grid_thw": image_grid(len(batch.images), batch.images.shape[1]),
    }


def patchify(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, S, S, 3] -> float32 [B * (S / 14)^2, 1176], as the library does: a still image is shown twice."""
    once = patches(images).view(-1, 3, 1, PATCH * PATCH)
    return once.expand(-1, 3, 2, PATCH * PATCH).reshape(len(once), -1)
