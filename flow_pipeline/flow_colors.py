"""Flow and its errors as colours, pure: the hue tells the direction, the saturation how far.

The wheel is the one of the Middlebury benchmark (Baker et al., A Database and Evaluation Methodology for Optical Flow,
IJCV 2011): white stands still, right is red, down is yellow, left is cyan, up is violet, in the image's own directions.
"""

from __future__ import annotations

import math

import numpy as np

UNKNOWN = (150, 150, 150)  # RGB of what is not finite or not valid
BEYOND = 0.75  # brightness of what is longer than the scale
_CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0))
_SPANS = (15, 6, 4, 11, 13, 6)  # of red to yellow, yellow to green, ...: hues that eyes tell apart
_KNOTS = np.cumsum((0, *_SPANS)) / sum(_SPANS)
_ERROR_RAMP = ((252, 252, 250), (254, 217, 118), (240, 110, 40), (165, 15, 30), (45, 0, 20))  # equal steps


def flow_colors(flow: np.ndarray, longest_px: float, valid: np.ndarray | None = None) -> np.ndarray:
    """flow: float [..., 2] as (dx right, dy down); valid: bool [...]. Returns uint8 [..., 3].

    longest_px is fully saturated; what is longer is darker.
    """
    finite = np.isfinite(flow).all(-1, keepdims=True)
    known = finite if valid is None else finite & valid[..., None]
    flow = np.where(known, flow, 0).astype(np.float64)
    far = np.linalg.norm(flow, axis=-1, keepdims=True) / longest_px
    hue = _between(np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1, _KNOTS, _CORNERS)
    shown = np.where(far <= 1, 255 - far * (255 - hue), hue * BEYOND)
    return np.where(known, np.rint(shown), UNKNOWN).astype(np.uint8)


def error_colors(error_px: np.ndarray, largest_px: float) -> np.ndarray:
    """error_px: float [...], not negative. Returns uint8 [..., 3]: paper is 0, `largest_px` and more nearly black."""
    share = np.clip(np.nan_to_num(error_px) / largest_px, 0, 1)
    shown = np.rint(_between(share, np.linspace(0, 1, len(_ERROR_RAMP)), _ERROR_RAMP))
    return np.where(np.isfinite(error_px)[..., np.newaxis], shown, UNKNOWN).astype(np.uint8)


def wheel(size: int, paper: tuple[int, int, int]) -> np.ndarray:
    """The legend: a disc whose rim is the scale's end, uint8 [size, size, 3]; beyond it is paper."""
    along = (np.arange(size) + 0.5) / size * 2 - 1
    place = np.stack(np.meshgrid(along, along), -1)  # (right, down) in [-1, 1]
    return np.where(np.linalg.norm(place, axis=-1, keepdims=True) <= 1, flow_colors(place, 1.0), paper).astype(np.uint8)


def error_scale(width: int, height: int) -> np.ndarray:
    """The legend of errors, from 0 on the left to the scale's end: uint8 [height, width, 3]."""
    return np.tile(error_colors(np.linspace(0, 1, width), 1.0), (height, 1, 1))


def round_scale(value_px: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... pixels, for the end of a scale."""
    decade = 10.0 ** math.floor(math.log10(max(value_px, 1.0)))
    return next(decade * step for step in (1, 2, 5, 10) if decade * step >= value_px * (1 - 1e-9))


def _between(at: np.ndarray, knots: np.ndarray, colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Piecewise linear in RGB: float [...] -> float [..., 3]."""
    return np.stack([np.interp(at, knots, channel) for channel in zip(*colors, strict=True)], -1)
