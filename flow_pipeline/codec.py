"""The network of a fitted flow tokenizer: flow -> latents per cell -> a quantiser -> flow.

Shapes: B steps, S x S input cells (STORED_CELLS), C x C cells of tokens, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from flow_pipeline.companding import COMPAND_SCALE_PX
from flow_pipeline.flow_field import STORED_CELLS
from flow_pipeline.fsq_definition import MAX_UNITS


class Quantiser(Protocol):
    """Latents to codes and back."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    def quantise(self, latent: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """latent: float [B, D, C, C]; active: bool [B, C, C], the cells that are coded.

        Returns what the decoder gets, float [B, D, C, C] with a gradient for `latent`, and codes int64 [B, C, C].
        """
        ...

    def look_up(self, codes: Tensor) -> Tensor:
        """int64 [B, C, C] -> what the decoder gets, float [B, D, C, C]."""
        ...


@dataclass(frozen=True)
class Fsq:
    """Finite scalar quantisation (Mentzer et al., 2023): each latent dimension is bounded and rounded to its levels.

    A code is a number in mixed radix, the first dimension the lowest digit: 0..prod(levels) - 1, each one a code.
    """

    levels: tuple[int, ...]

    @property
    def dim(self) -> int:
        """D."""
        return len(self.levels)

    def quantise(self, latent: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """See Quantiser; active is not looked at. The decoder gets multiples of 2 / level in [-1, 1]."""
        count, radix = self._shaped()
        half = (count - 1) * 1.001 / 2  # so that tanh reaches the outer levels
        offset = torch.where(count % 2 == 0, 0.5, 0.0)  # an even number of levels has no middle one
        bounded = torch.tanh(latent + torch.atanh(offset / half)) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        digits = bounded.detach().round().long() + count // 2
        return rounded / (count // 2), (digits * radix).sum(1)

    def look_up(self, codes: Tensor) -> Tensor:
        """See Quantiser."""
        count, radix = self._shaped()
        digits = codes[:, None] // radix % count
        return (digits - count // 2).float() / (count // 2)

    def _shaped(self) -> tuple[Tensor, Tensor]:
        """Levels and place values: int64 [1, D, 1, 1]."""
        count = torch.tensor(self.levels).view(1, -1, 1, 1)
        return count, torch.cumprod(torch.cat([torch.ones_like(count[:, :1]), count[:, :-1]], 1), 1)


class Codec(nn.Module):
    """Encoder and decoder around a quantiser. Static cells tell the decoder so, and come out as no motion."""

    def __init__(self, quantiser: Quantiser, cells: int, width: int, blocks: int) -> None:
        super().__init__()
        self.quantiser, self.cells, self.patch = quantiser, cells, STORED_CELLS // cells
        self.encoder = nn.Sequential(
            nn.Conv2d(2, width, self.patch, self.patch),
            *(_Block(width) for _ in range(blocks)),
            nn.Conv2d(width, quantiser.dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(quantiser.dim + 1, width, 1),
            *(_Block(width) for _ in range(blocks)),
            nn.Conv2d(width, 2 * self.patch**2, 1),
            nn.PixelShuffle(self.patch),
        )

    def forward(self, flow: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """flow: float [B, 2, S, S] px; static: bool [B, C, C]. Returns the flow that the codes give, and the codes."""
        latent, codes = self.quantise(flow, static)
        return self.reconstruct(latent, static), codes

    def quantise(self, flow: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """Same arguments. Returns what the decoder gets, float [B, D, C, C], and codes int64 [B, C, C]."""
        return self.quantiser.quantise(self.encoder(torch.asinh(flow / COMPAND_SCALE_PX)), ~static)

    def reconstruct(self, latent: Tensor, static: Tensor) -> Tensor:
        """Float [B, D, C, C], bool [B, C, C] -> float [B, 2, S, S] px, exactly 0 in static cells."""
        still = static[:, None]
        units = self.decoder(torch.cat([latent.masked_fill(still, 0), still.float()], 1)).clamp(-MAX_UNITS, MAX_UNITS)
        flow = torch.sinh(units) * COMPAND_SCALE_PX
        return flow.masked_fill(spread(still, self.patch), 0)


def spread(mask: Tensor, times: int) -> Tensor:
    """Repeat cells: [..., C, C] -> [..., C * times, C * times]."""
    return mask.repeat_interleave(times, -1).repeat_interleave(times, -2)


@contextmanager
def one_thread() -> Generator[None]:
    """Within it torch adds up in one order, whatever the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.act(self.first(self.act(x))))
