"""Batch -> hidden states -> logits, on a bare Qwen2.5-VL: the library's weights and layers, less of its work.

Positions come with the batch, images are cut up on the device, the vision tower knows its one image size, and no mask
is made: padding stands on the right, where causal attention never looks back at it. Equal to the library's forward pass
within rounding (a test). Shapes: B samples, S tokens, D width, K target tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from training.batch import Batch
from training.vision_tower import VisionTower

_CAUSAL = {"full_attention": None}  # the library's spelling of "no mask but the causal one"


class Network:
    """model: Qwen2.5-VL for generation, unwrapped (`get_base_model` of a PeftModel)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._towers: dict[int, VisionTower] = {}
        assert not model.model.language_model.has_sliding_layers, "sliding windows need a mask of their own"

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [B, S, D]; those of padding mean nothing."""
        inner = self._model.model
        seen = self._tower(batch.images.shape[1])(batch.images)  # [B, V, D]
        embedded = self._model.get_input_embeddings()(batch.input_ids)
        placeholder = (batch.input_ids == self._model.config.image_token_id)[..., None]
        return inner.language_model(
            inputs_embeds=embedded.masked_scatter(placeholder, seen.to(embedded.dtype)),
            position_ids=batch.positions,
            attention_mask=_CAUSAL,
            use_cache=False,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[K, D] -> float32 [K, vocabulary]."""
        return self._model.lm_head(hidden).float()

    def _tower(self, size: int) -> VisionTower:
        if size not in self._towers:
            self._towers[size] = VisionTower(self._model.model.visual, size)
        return self._towers[size]
