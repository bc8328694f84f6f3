"""A batch as Qwen2_5_VLForConditionalGeneration.forward takes it."""

from __future__ import annotations

import torch

from training.batch import Batch, image_grid, patchify
from training.layout import Vocabulary


def forward_inputs(batch: Batch, vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """Its keyword arguments."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (batch.input_ids != vocabulary.pad).long(),
        "mm_token_type_ids": (batch.input_ids == vocabulary.image).int(),
        "pixel_values": patchify(batch.images),
        "image_grid_thw": image_grid(len(batch.images), batch.images.shape[1]),
    }
