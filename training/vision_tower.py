"""Qwen2.5-VL's vision tower on equal square images: the model's own weights, in a third of the operations.

The library rebuilds positions and windows from every image's grid at each call and attends window by window; with one
image size all of it is known beforehand. Equal to the library's within rounding (a test). Shapes: B images, P patches
of one image, N = B * P, D width, V = P / 4 visual tokens of one image.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from training.batch import image_grid, patches


class VisionTower:
    """Images -> visual tokens, for images of `size` pixels. visual: the model's Qwen2_5_VisionTransformer."""

    def __init__(self, visual: Any, size: int) -> None:
        config, grid = visual.config, image_grid(1, size).to(visual.device)
        assert config.hidden_act == "silu", config.hidden_act
        self._visual = visual
        self._unit = config.spatial_merge_size**2
        self._order, bounds = get_vision_window_index(
            grid, config.spatial_merge_size, config.window_size, config.patch_size
        )
        self._back = torch.argsort(self._order)
        positions = get_vision_position_ids(grid, config.spatial_merge_size)
        x = torch.empty(0, device=grid.device)
        self._cos, self._sin = (
            self._windowed(table[None])[0, :, None] for table in visual.rotary_pos_emb(x, positions)
        )
        self._windows, self._mask = _window_attention(torch.diff(bounds))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, S, S, 3], already as the policy sees them -> visual tokens [B, V, width of the language model]."""
        visual, count = self._visual, len(images)
        # A still image is two equal frames, so that the convolution over them is one product. [D, 3 * 14 * 14]
        kernel = visual.patch_embed.proj.weight.float().sum(2).flatten(1)
        embedded = F.linear(patches(images), kernel).to(visual.dtype)
        x = self._windowed(embedded.unflatten(0, (count, -1)))  # [B, P, D]
        for number, block in enumerate(visual.blocks):
            everywhere = number in visual.fullatt_block_indexes
            x = x + self._attend(block.attn, _norm(block.norm1, x), everywhere=everywhere)
            h = _norm(block.norm2, x)
            x = x + block.mlp.down_proj(F.silu(block.mlp.gate_proj(h)) * block.mlp.up_proj(h))
        merged = visual.merger.mlp(_norm(visual.merger.ln_q, x).view(count, x.shape[1] // self._unit, -1))
        return merged[:, self._back]

    def _windowed(self, x: torch.Tensor) -> torch.Tensor:
        """[B, P, ...] with the patches of a window together."""
        return x.unflatten(1, (-1, self._unit))[:, self._order].flatten(1, 2)

    def _attend(self, attention: Any, x: torch.Tensor, *, everywhere: bool) -> torch.Tensor:
        heads, windows = attention.num_heads, 1 if everywhere else self._windows
        q, k, v = attention.qkv(x).unflatten(-1, (3, heads, -1)).unbind(2)  # [B, P, heads, D / heads] each
        q, k = (self._rotate(part) for part in (q, k))
        split = [part.unflatten(1, (windows, -1)).flatten(0, 1).transpose(1, 2) for part in (q, k, v)]
        out = F.scaled_dot_product_attention(*split, attn_mask=None if everywhere else self._mask)
        return attention.proj(out.transpose(1, 2).reshape(x.shape))

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embedding in float32, as the library's."""
        wide = x.float()
        first, second = wide.chunk(2, dim=-1)
        return (wide * self._cos + torch.cat([-second, first], -1) * self._sin).to(x.dtype)


def _window_attention(lengths: torch.Tensor) -> tuple[int, torch.Tensor | None]:
    """(equal windows of an image, None), or (1, who may look at whom, bool [P, P]) where windows differ in size."""
    if bool((lengths == lengths[0]).all()):
        return len(lengths), None
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return 1, owner[:, None] == owner


def _norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
