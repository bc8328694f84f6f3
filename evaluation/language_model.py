"""Qwen2.5-VL's language model, one token at a time: the model's own weights on a preallocated key-value cache.

The library's forward builds masks, positions and caches anew for every token, which at small sizes costs more than the
layers. Here all of it is laid out before the first token. Shapes: B rows, T prompt tokens, C = T + tokens to come
(capacity), D width, H heads, G of them on each of K key-value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


class LanguageModel:
    """Prompt and steps of a batch. `language`: the model's Qwen2_5_VLTextModel; its weights are read at each call.

    fixed_shapes: a step looks at the whole cache under a mask, so that every step runs the same kernels on the same
    addresses, as CUDA graphs and torch.compile need; otherwise at the part in use, which is less work.
    """

    def __init__(self, language: Any, *, fixed_shapes: bool) -> None:
        config = language.config
        assert config.hidden_act == "silu", config.hidden_act
        assert not language.has_sliding_layers
        self._rotary = language.rotary_emb
        self._embedding, self._final_norm = language.embed_tokens.weight, language.norm.weight
        self._layers = [_Layer.of(layer) for layer in language.layers]
        self._epsilon = config.rms_norm_eps
        self._fixed_shapes = fixed_shapes
        self._kv_heads, self._head = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        self._keys = self._values = torch.empty(0)  # [layers, B, K, C, D / H]

    def start(self, embeddings: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
        """Read the prompts. Returns the last column's hidden state, [B, D].

        embeddings: [B, T, D]; positions: int64 [3, B, T]; mask: bool [B, T], False for padding on the left; steps: how
        many tokens may follow.
        """
        count, length = mask.shape
        self._length = length
        self._allocate(count, length + steps, embeddings)
        # What follows the prompt continues from its largest position, on all three axes.
        ahead = positions.amax(dim=(0, 2))[:, None] + 1 + torch.arange(steps, device=positions.device)
        everything = torch.cat([positions, ahead.expand(3, -1, -1)], dim=2)
        cos, sin = (table[:, None] for table in self._rotary(embeddings, everything))
        half = self._head // 2
        self._cos, self._sin = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)  # [B, 1, C, D / H]
        lowest = torch.finfo(embeddings.dtype).min  # not -inf: a row of padding must still have a mean
        self._bias = embeddings.new_full((count, 1, 1, length + steps), lowest)
        self._bias[..., :length].masked_fill_(mask[:, None, None], 0)
        later = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
        bias = self._bias[..., :length].masked_fill(later, lowest)  # [B, 1, T, T]
        cos, sin = self._cos[:, :, :length], self._sin[:, :, :length]
        x = embeddings.flatten(0, 1)  # [B * T, D]
        for number, layer in enumerate(self._layers):
            h = self._norm(x, layer.norm_attention)
            k, v = self._heads(h, layer.key, count), self._heads(h, layer.value, count)
            k = self._rotate(k, cos, sin)
            self._keys[number, :, :, :length], self._values[number, :, :, :length] = k, v
            if layer is self._layers[-1]:  # of which only the last column is read
                x, h = (part.view(count, length, -1)[:, -1] for part in (x, h))
                bias, cos, sin = (part[:, :, -1:] for part in (bias, cos, sin))
            q = self._rotate(self._heads(h, layer.query, count), cos, sin)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
            x = self._feed_forward(layer, x, attended.transpose(1, 2).reshape(len(x), -1))
        return self._norm(x, self._final_norm)

    def step(self, ids: torch.Tensor, number: int) -> torch.Tensor:
        """Append the `number`-th token after the prompt, int64 [B]. Returns hidden states [B, D]."""
        column = self._length + number
        here, end = slice(column, column + 1), None if self._fixed_shapes else column + 1
        self._bias[..., here] = 0
        bias, keys, values = self._bias[..., :end], self._keys[..., :end, :], self._values[..., :end, :]
        cos, sin = self._cos[:, :, here], self._sin[:, :, here]
        x = F.embedding(ids, self._embedding)  # [B, D]
        for layer, k, v in zip(self._layers, keys, values, strict=True):
            h = self._norm(x, layer.norm_attention)
            k[:, :, here] = self._rotate(self._heads(h, layer.key, len(ids)), cos, sin)
            v[:, :, here] = self._heads(h, layer.value, len(ids))
            q = self._rotate(self._heads(h, layer.query, len(ids)), cos, sin)
            # The query heads of one key head stand where tokens would: nothing is repeated.
            grouped = q.view(len(ids), k.shape[1], -1, self._head)
            attended = F.scaled_dot_product_attention(grouped, k, v, attn_mask=bias)
            x = self._feed_forward(layer, x, attended.view(len(ids), -1))
        return self._norm(x, self._final_norm)

    def _allocate(self, count: int, capacity: int, like: torch.Tensor) -> None:
        """A cache of zeros: what was left of another batch, NaN perhaps, times a weight of 0 would still be NaN."""
        shape = (len(self._layers), count, self._kv_heads, capacity, self._head)
        if self._keys.shape == shape:
            self._keys.zero_()
            self._values.zero_()
        else:
            self._keys, self._values = like.new_zeros(shape), like.new_zeros(shape)

    def _heads(self, h: torch.Tensor, projection: tuple[torch.Tensor, torch.Tensor], count: int) -> torch.Tensor:
        """[B * tokens, D] -> [B, heads, tokens, D / H]."""
        return F.linear(h, *projection).view(count, len(h) // count, -1, self._head).transpose(1, 2)

    def _rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding; the sign of its rotated half is in `sin`."""
        return x * cos + x.roll(self._head // 2, -1) * sin

    def _feed_forward(self, layer: _Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + F.linear(attended, layer.out)
        h = self._norm(x, layer.norm_mlp)
        return x + F.linear(F.silu(F.linear(h, layer.gate)) * F.linear(h, layer.up), layer.down)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self._epsilon)


@dataclass(frozen=True, eq=False)
class _Layer:
    """The parameters of one layer: attribute look-ups through modules cost more than the smallest products."""

    norm_attention: torch.Tensor
    query: tuple[torch.Tensor, torch.Tensor]  # weight and bias
    key: tuple[torch.Tensor, torch.Tensor]
    value: tuple[torch.Tensor, torch.Tensor]
    out: torch.Tensor
    norm_mlp: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            layer.input_layernorm.weight,
            (attention.q_proj.weight, attention.q_proj.bias),
            (attention.k_proj.weight, attention.k_proj.bias),
            (attention.v_proj.weight, attention.v_proj.bias),
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            mlp.gate_proj.weight,
            mlp.up_proj.weight,
            mlp.down_proj.weight,
        )
