"""Dropout for the CPU, where torch draws one random number per entry: here one 64-bit draw decides about four."""

from __future__ import annotations

import torch
from torch import nn

_BITS = 16


class QuickDropout(nn.Module):
    """nn.Dropout(p) with p rounded to a multiple of 2**-16. Draws from torch's global generator."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self._dropped = round(p * 2**_BITS)  # of 2**16 equally likely draws

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape; entries are 0 or scaled so that the mean stays."""
        if not self.training or self._dropped == 0:
            return x
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: x.numel()] >= self._dropped - 2 ** (_BITS - 1)
        return x * kept.view(x.shape).to(x.dtype).mul_(1 / (1 - self._dropped / 2**_BITS))


def quicken_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout inside `model` that drops anything."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and child.p > 0:
                setattr(module, name, QuickDropout(child.p))
