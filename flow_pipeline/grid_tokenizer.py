"""Grid tokenizer: the mean flow of each cell, companded by asinh with a fixed scale and quantised.

The scale is 2 % of the width, never a per-frame maximum. It needs no training, so nothing is fitted on test episodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from configs.building import canonical
from data_pipeline.contract import POINT_GRID, STATIC_CODE
from flow_pipeline.companding import COMPAND_SCALE_PX, compand, expand

LIMIT_PX = 48.0
"""Components beyond it saturate. Of 16 to 96 it loses least at 5 levels (end-point error of moving cells, k = 8, on
expert demonstrations of object and long: 9.2 and 11.6 px with 4 x 4 cells, where no motion has 16.4 and 22.0)."""


@dataclass(frozen=True)
class GridTokenizer:
    """cells x cells codes per step: 0 is static, else ``1 + level_x * levels + level_y``."""

    cells: int
    levels: int
    static_px: float  # a cell whose mean flow is no longer is static; pixels at 256 px scale

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return 1 + self.levels**2

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides what a code means."""
        constants = {"name": "grid", "scale_px": COMPAND_SCALE_PX, "limit_px": LIMIT_PX, "point_grid": POINT_GRID}
        return {**canonical(self), **constants}

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> GridTokenizer:
        """Inverse of `definition`."""
        return cls(*(definition[name] for name in ("cells", "levels", "static_px")))

    @property
    def digest(self) -> str:
        """sha256 of the definition."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()

    def encode(self, flow: np.ndarray) -> np.ndarray:
        """flow: float [T, C, C, 2], pixels at 256 px scale, C at least `cells`. Returns uint16 [T, cells * cells]."""
        means = np.stack([_reduce(step, self.cells) for step in flow]) if len(flow) else flow[:, :0, :0]
        unit = compand(means) / _UNIT_LIMIT  # about [-1, 1]
        level = np.clip(np.floor((unit + 1) / 2 * self.levels), 0, self.levels - 1).astype(np.int64)
        codes = 1 + level[..., 0] * self.levels + level[..., 1]
        static = np.linalg.norm(means, axis=-1) <= self.static_px
        return np.where(static, STATIC_CODE, codes).astype(np.uint16).reshape(len(flow), self.cells**2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes: int [T, cells * cells]. Returns float32 [T, cells, cells, 2], pixels at 256 px scale.

        Raises ValueError for a code outside the vocabulary.
        """
        codes = check_codes(codes, self.num_codes)
        level = np.stack(np.divmod(codes - 1, self.levels), -1)
        unit = (level + 0.5) / self.levels * 2 - 1
        flow = np.where((codes == STATIC_CODE)[..., None], 0, expand(unit * _UNIT_LIMIT))
        return flow.astype(np.float32).reshape(len(codes), self.cells, self.cells, 2)


_UNIT_LIMIT = float(compand(np.array(LIMIT_PX)))


def check_codes(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """As int64. Raises ValueError for a code outside the vocabulary."""
    codes = np.asarray(codes, np.int64)
    if codes.size and not (codes.min() >= 0 and codes.max() < num_codes):
        raise ValueError(f"flow codes {codes.min()}..{codes.max()} are outside 0..{num_codes - 1}")
    return codes


def _reduce(flow: np.ndarray, cells: int) -> np.ndarray:
    """Area means: float [C, C, 2] -> float32 [cells, cells, 2]."""
    return cv2.resize(flow.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
