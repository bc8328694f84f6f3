"""One base model that stays in memory while adapters come and go, so that the phases of a subset share its load.

An adapter is merged: decoding then reads plain weights, which is faster by two small products per linear layer and
token than an unmerged one, and it is what a fresh load gives. Taking it out again by subtraction would leave rounding
behind, so what adapters touch is kept as it was, in host memory (at 3B in bf16 about 6 GB; reading the files again
costs as much and more time), and copied back: every load is bit for bit a fresh one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class BaseKey:
    """What makes a loaded base that base."""

    digest: str
    device: str
    dtype: torch.dtype


@dataclass(frozen=True)
class LoadedBase:
    """A base as its files have it, and what of it adapters change."""

    key: BaseKey
    model: Any  # Qwen2_5_VLForConditionalGeneration
    rows: int  # of the embedding
    originals: dict[str, torch.Tensor]  # on the host

    @classmethod
    def of(cls, key: BaseKey, model: Any, targets: str) -> LoadedBase:
        """targets: regular expression of the names of the modules that adapters stand on."""
        touched = {name: value.detach().to("cpu", copy=True) for name, value in _touched(model, targets)}
        return cls(key, model, model.get_input_embeddings().num_embeddings, touched)

    def restore(self) -> None:
        """Take an adapter out: rows that it added, then every weight that it changed."""
        if self.model.get_input_embeddings().num_embeddings != self.rows:
            self.model.resize_token_embeddings(self.rows)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, original in self.originals.items():
                parameters[name].copy_(original)


class WarmBase:
    """At most one base. What was taken belongs to the taker until it is put back; what is not put back is let go."""

    def __init__(self) -> None:
        self._kept: LoadedBase | None = None

    def take(self, key: BaseKey, targets: str, load: Callable[[], Any]) -> LoadedBase:
        """The base as its files have it. load: makes the model where it is not here."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.key == key:
            kept.restore()
            return kept
        del kept  # before another is loaded beside it
        return LoadedBase.of(key, load(), targets)

    def put_back(self, base: LoadedBase) -> None:
        """Keep it for the next `take`, whatever adapter is merged in it now."""
        self._kept = base

    def release(self) -> None:
        """Let it go: its memory is needed."""
        self._kept = None


WARM_BASE = WarmBase()
"""This process's, for stages that follow each other in one worker."""


def _touched(model: Any, targets: str) -> Iterator[tuple[str, torch.Tensor]]:
    vocabulary = {id(model.get_input_embeddings().weight), id(model.lm_head.weight)}
    for name, parameter in model.named_parameters():
        if id(parameter) in vocabulary or re.fullmatch(rf"{targets}\.weight", name):
            yield name, parameter
