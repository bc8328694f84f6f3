"""asinh companding of flow, with a scale that is fixed: never a per-frame maximum."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import POINT_GRID

COMPAND_SCALE_PX = 0.02 * POINT_GRID
"""Where linear turns into logarithmic, pixels at 256 px scale: 2 % of the width."""


def compand(flow_px: np.ndarray) -> np.ndarray:
    """Pixels at 256 px scale -> companded units; 1 is about 6 px, 4 about 140."""
    return np.arcsinh(flow_px / COMPAND_SCALE_PX)


def expand(units: np.ndarray) -> np.ndarray:
    """Inverse of `compand`."""
    return np.sinh(units) * COMPAND_SCALE_PX
