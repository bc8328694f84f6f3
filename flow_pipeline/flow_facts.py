"""What flow and its tokens are like over a subset, counted episode by episode. Pure.

Lengths and errors are in pixels of a 256 x 256 image, over the stored cells (STORED_CELLS x STORED_CELLS per step).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from data_pipeline.contract import FlowTokens
from flow_pipeline.flow_field import EpisodeFlow
from flow_pipeline.token_quality import MOVING_PX, enlarge

EDGES_PX = (MOVING_PX, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 1e9)
"""Of the histogram of lengths."""


@dataclass(frozen=True)
class Tally:
    """Sums over some episodes; `+` joins two."""

    episodes: int
    steps: int
    short: int  # steps that look less than half the horizon ahead: no flow tokens
    still: int  # of the others: no cell moves
    cells: int  # stored cells of all steps
    moving: int  # of them: at least MOVING_PX long
    beyond: int  # of these: longer than `limit_px`
    error_px: float  # sum over cells
    length_px: float  # of the flow, sum over cells: also the error of predicting no motion
    moving_error_px: float
    moving_length_px: float
    lengths: np.ndarray  # int [2, len(EDGES_PX) - 1]: moving cells per length, of the flow and of what is decoded there
    codes: np.ndarray  # int [num_codes]: how often each was used
    code_flow_px: np.ndarray  # float [num_codes, 2]: sum of what it decoded to where it was used

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def epe_all(self) -> float:
        """Mean end-point error."""
        return self.error_px / self.cells

    @property
    def epe_moving(self) -> float:
        """Mean end-point error of moving cells; 0 where none moves."""
        return self.moving_error_px / max(self.moving, 1)

    @property
    def zero_all(self) -> float:
        """`epe_all`, had no motion been predicted."""
        return self.length_px / self.cells

    @property
    def zero_moving(self) -> float:
        """`epe_moving`, had no motion been predicted."""
        return self.moving_length_px / max(self.moving, 1)

    @property
    def bits_per_code(self) -> float:
        """Entropy of the codes as they were used."""
        share = self.codes[self.codes > 0] / self.codes.sum()
        return float(-np.sum(share * np.log2(share)))

    @property
    def mean_code_flow_px(self) -> np.ndarray:
        """What each code decoded to on average: float [num_codes, 2]; 0 of unused ones."""
        return self.code_flow_px / np.maximum(self.codes, 1)[:, None]


def tally(flow: EpisodeFlow, tokens: FlowTokens, decoded: np.ndarray, limit_px: float) -> Tally:
    """One episode. decoded: float32 [T, D, D, 2], what the tokens say; limit_px: no code says more."""
    truth = flow.flow.astype(np.float32)
    length, error = np.linalg.norm(truth, axis=-1), errors(truth, decoded)
    moving = length >= MOVING_PX
    said = np.linalg.norm(resized(decoded, truth.shape[1]), axis=-1)
    short = tokens.k_effective * 2 < tokens.k
    codes = tokens.codes.astype(np.int64)
    per_code = resized(decoded, round(codes.shape[1] ** 0.5)).reshape(-1, 2)
    sums = [np.bincount(codes.ravel(), per_code[:, axis], tokens.num_codes) for axis in (0, 1)]
    return Tally(
        episodes=1,
        steps=len(truth),
        short=int(short.sum()),
        still=int((~moving.any((1, 2)) & ~short).sum()),
        cells=moving.size,
        moving=int(moving.sum()),
        beyond=int((length > limit_px).sum()),
        error_px=float(error.sum(dtype=np.float64)),
        length_px=float(length.sum(dtype=np.float64)),
        moving_error_px=float(error[moving].sum(dtype=np.float64)),
        moving_length_px=float(length[moving].sum(dtype=np.float64)),
        lengths=np.stack([np.histogram(values[moving], (0, *EDGES_PX[1:]))[0] for values in (length, said)]),
        codes=np.bincount(codes.ravel(), minlength=tokens.num_codes),
        code_flow_px=np.stack(sums, -1),
    )


def errors(flow: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """End-point error per stored cell: flow float32 [T, C, C, 2], decoded float32 [T, D, D, 2] -> float32 [T, C, C]."""
    return np.linalg.norm(resized(decoded, flow.shape[1]) - flow, axis=-1)


def resized(flow: np.ndarray, size: int) -> np.ndarray:
    """[T, D, D, 2] -> [T, size, size, 2]: area means where that is coarser, repeated where it is finer."""
    if size >= flow.shape[1]:
        return enlarge(flow, size)
    return np.stack([cv2.resize(step, (size, size), interpolation=cv2.INTER_AREA) for step in flow])
