"""Batch -> hidden states -> logits, on a bare Qwen2.5-VL: the library's weights and layers, less of its work.

Positions come with the batch, images are cut up on the device, the vision tower knows its one image size, and no mask
is made: padding stands on the right, where causal attention never looks back at it. Where few positions are targets
the last layer's queries and feed-forward are computed for those alone: with three layers a fifth of a step without
reasoning. Equal to the library's forward pass within rounding (tests). Shapes: B samples, S tokens, D width, K target
tokens, Q the most targets of a sample, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from training.batch import Batch
from training.vision_tower import VisionTower

FEW = 0.5
"""Share of a row's positions up to which gathering the targets costs less than computing the rest."""


class Network:
    """model: Qwen2.5-VL for generation, unwrapped (`get_base_model` of a PeftModel)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._language: Any = model.model.language_model
        self._towers: dict[int, VisionTower] = {}
        assert not self._language.has_sliding_layers, "sliding windows need a mask of their own"

    def __call__(self, batch: Batch, asked: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [K, vocabulary], where `asked` (bool [B, S]) is true, row by row."""
        return self.logits(self.hidden_at(batch, asked))

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [B, S, D]; those of padding mean nothing."""
        x, rotary = self._before_last(batch)
        return self._language.norm(self._language.layers[-1](x, position_embeddings=rotary))

    def hidden_at(self, batch: Batch, asked: torch.Tensor) -> torch.Tensor:
        """Last hidden states [K, D] where `asked` (bool [B, S]) is true, row by row."""
        most = int(asked.sum(1).max())
        if most > FEW * asked.shape[1]:
            return self.hidden(batch)[asked]
        x, rotary = self._before_last(batch)
        places = torch.argsort(asked.int(), dim=1, descending=True, stable=True)[:, :most]  # [B, Q]
        return self._last_layer_at(x, rotary, places)[asked.gather(1, places)]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[K, D] -> float32 [K, vocabulary]."""
        return self._model.lm_head(hidden).float()

    def _before_last(self, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """What enters the last layer [B, S, D], and the rotary tables [B, S, D / H]."""
        seen = self._tower(batch.images.shape[1])(batch.images)  # [B, V, D]
        embedded = self._model.get_input_embeddings()(batch.input_ids)
        placeholder = (batch.input_ids == self._model.config.image_token_id)[..., None]
        x = embedded.masked_scatter(placeholder, seen.to(embedded.dtype))
        rotary = self._language.rotary_emb(x, batch.positions)
        for layer in self._language.layers[:-1]:
            x = layer(x, position_embeddings=rotary)
        return x, rotary

    def _last_layer_at(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor
    ) -> torch.Tensor:
        """The last layer and the final norm at `places`: [B, Q, D]."""
        layer = self._language.layers[-1]
        attention, normed = layer.self_attn, layer.input_layernorm(x)

        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # [B, H, positions, D / H]

        q, k, v = attention.q_proj(_at(normed, places)), attention.k_proj(normed), attention.v_proj(normed)
        cos, sin = rotary
        k, _ = apply_rotary_pos_emb(heads(k), heads(k), cos, sin)
        q, _ = apply_rotary_pos_emb(heads(q), heads(q), _at(cos, places), _at(sin, places))
        earlier = torch.arange(x.shape[1], device=x.device) <= places[:, None, :, None]  # [B, 1, Q, S]
        read = F.scaled_dot_product_attention(
            q, k, heads(v), attn_mask=earlier, scale=attention.scaling, enable_gqa=True
        )
        y = _at(x, places) + attention.o_proj(read.transpose(1, 2).flatten(2))
        return self._language.norm(y + layer.mlp(layer.post_attention_layernorm(y)))

    def _tower(self, size: int) -> VisionTower:
        if size not in self._towers:
            self._towers[size] = VisionTower(self._model.model.visual, size)
        return self._towers[size]


def _at(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B, S, D], [B, Q] -> [B, Q, D]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
