"""Fitted tokenizer: a small convolutional codec around FSQ, and one code reserved for cells in which nothing moves.

A cell is static where every stored cell in it is shorter than `static_px`. That is decided before the network and
undone after it, so the gate is exact: static cells decode to no motion, and no motion encodes to static cells.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data_pipeline.contract import STATIC_CODE
from flow_pipeline.codec import Codec, Fsq, one_thread
from flow_pipeline.flow_field import STORED_CELLS
from flow_pipeline.grid_tokenizer import check_codes

ROWS = 16
"""Steps per call of the network, the last call filled up: the shape decides in which order sums are taken."""


@dataclass(frozen=True)
class FsqTokenizer:
    """cells x cells codes per step: STATIC_CODE, else 1 + the FSQ index."""

    definition: Mapping[str, Any]  # see fsq_definition
    weights: Mapping[str, np.ndarray] = field(repr=False)  # float32, the codec's state dict

    @property
    def cells(self) -> int:
        """Codes per side."""
        return self.definition["cells"]

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return 1 + math.prod(self.definition["levels"])

    @property
    def digest(self) -> str:
        """sha256 of the definition and the weights."""
        state = hashlib.sha256(json.dumps(dict(self.definition), sort_keys=True).encode())
        for name, value in sorted(self.weights.items()):
            state.update(f"{name}{value.shape}".encode() + value.astype("<f4").tobytes())
        return state.hexdigest()

    @cached_property
    def _codec(self) -> Codec:
        codec = new_codec(self.definition)
        codec.load_state_dict({name: torch.from_numpy(value) for name, value in self.weights.items()})
        return codec.eval().requires_grad_(requires_grad=False)

    def encode(self, flow: np.ndarray) -> np.ndarray:
        """flow: float [T, C, C, 2], pixels at 256 px scale, C at least STORED_CELLS.

        Returns uint16 [T, cells * cells]; the same whatever else is encoded beside a step, on any number of threads.
        """
        stored = at_stored_size(flow)
        static = static_cells(stored, self.cells, self.definition["static_px"])
        parts = _by_rows(lambda f, s: self._codec.quantise(f, s)[1], stored.transpose(0, 3, 1, 2), static)
        indices = np.concatenate([np.zeros((0, self.cells, self.cells), np.int64), *parts])
        return np.where(static, STATIC_CODE, 1 + indices).astype(np.uint16).reshape(len(flow), self.cells**2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes: int [T, cells * cells]. Returns float32 [T, D, D, 2], D = STORED_CELLS, pixels at 256 px scale.

        Raises ValueError for a code outside the vocabulary.
        """
        codes = check_codes(codes, self.num_codes).reshape(-1, self.cells, self.cells)
        static = codes == STATIC_CODE
        indices = np.where(static, 0, codes - 1)
        look_up = self._codec.quantiser.look_up
        parts = _by_rows(lambda i, s: self._codec.reconstruct(look_up(i), s), indices, static)
        flow = np.concatenate([np.zeros((0, 2, STORED_CELLS, STORED_CELLS), np.float32), *parts])
        return np.ascontiguousarray(flow.transpose(0, 2, 3, 1))


def new_codec(definition: Mapping[str, Any]) -> Codec:
    """Untrained, of the definition's sizes."""
    sizes = (definition[name] for name in ("cells", "width", "blocks"))
    return Codec(Fsq(tuple(definition["levels"])), *sizes)


def at_stored_size(flow: np.ndarray) -> np.ndarray:
    """Area means: float [T, C, C, 2] -> float32 [T, STORED_CELLS, STORED_CELLS, 2]."""
    flow = flow.astype(np.float32)
    if flow.shape[1] == STORED_CELLS:
        return flow
    size = (STORED_CELLS, STORED_CELLS)
    return np.stack([cv2.resize(step, size, interpolation=cv2.INTER_AREA) for step in flow])


def static_cells(flow: np.ndarray, cells: int, static_px: float) -> np.ndarray:
    """Where every stored cell is shorter than static_px: float32 [T, S, S, 2] -> bool [T, cells, cells]."""
    patch = STORED_CELLS // cells
    length = np.linalg.norm(flow, axis=-1).reshape(len(flow), cells, patch, cells, patch)
    return length.max((2, 4)) < static_px


def _by_rows(call: Callable[[Tensor, Tensor], Tensor], *arrays: np.ndarray) -> list[np.ndarray]:
    """call(first, second) over ROWS rows at a time, on one thread; numpy in and out."""
    parts: list[np.ndarray] = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(arrays[0]), ROWS):
            here = [array[start : start + ROWS] for array in arrays]
            count = len(here[0])
            full = [np.concatenate([a, np.zeros((ROWS - count, *a.shape[1:]), a.dtype)]) for a in here]
            parts.append(call(*map(torch.from_numpy, full))[:count].numpy())
    return parts
