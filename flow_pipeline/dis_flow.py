"""Backend `dis_chain`: OpenCV's DIS (Kroeger et al., 2016) between consecutive frames, followed along the chain.

A single estimate over a whole chunk loses large motions: for the wrist camera it is little better than no motion at all
(benchmarks/bench_flow.py scores both). What the later image does not show is found by the way back (Sundaram et al.,
2010): followed forwards and then backwards, a point should be where it began.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from data_pipeline.contract import POINT_GRID, Episode
from flow_pipeline.estimator import policy_frames
from flow_pipeline.flow_field import FlowField, inside

WORKING_PX = 256  # smaller images are enlarged to it by a whole factor: at 128 px that halves DIS's error
RETURN_RELATIVE = 0.01  # of the squared lengths of both ways
RETURN_ABSOLUTE = (
    4.0 / POINT_GRID**2
)  # squared image widths: 2 px in 256; of 0.5 to 4 px^2 it tells best what is hidden


class DisEstimator:
    """DIS flow of recorded pictures, chained."""

    def __init__(self, k: int, camera: str) -> None:
        self._k, self._camera = k, camera

    def episode(self, episode: Episode) -> Iterator[FlowField]:
        """T fields, ROT180."""
        return dis_chain(policy_frames(episode, self._camera), self._k)

    def close(self) -> None:
        """Nothing is held."""


def dis_chain(frames: np.ndarray, k: int) -> Iterator[FlowField]:
    """frames: uint8 [T, H, W, 3]. Yields T fields in the frame of the images.

    Valid where the chain stays inside; occluded where it does not, or does not lead back.
    """
    pairs = _consecutive(frames)
    window: deque[tuple[np.ndarray, np.ndarray]] = deque()  # of the next k pairs: flow ahead, flow back
    for _ in frames:
        window.extend(itertools.islice(pairs, k - len(window)))
        yield _followed([ahead for ahead, _ in window], [back for _, back in window], frames.shape[1:3])
        if window:
            window.popleft()


def _followed(ahead: Sequence[np.ndarray], back: Sequence[np.ndarray], size: tuple[int, int]) -> FlowField:
    """Along the flows ahead, each [H, W, 2], and back again."""
    columns, rows = np.meshgrid(np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32))
    start = np.stack([columns, rows], -1)
    end = _walk(start, ahead)
    returned = _walk(end, back[::-1])
    flow, missed = end - start, returned - start
    lengths = (flow**2).sum(-1) + ((returned - end) ** 2).sum(-1)
    lost = (missed**2).sum(-1) > RETURN_RELATIVE * lengths + RETURN_ABSOLUTE * size[0] * size[1]
    within = inside(end + 0.5, size)
    return FlowField(flow, within, lost | ~within, "dis_chain")


def _walk(points: np.ndarray, flows: Sequence[np.ndarray]) -> np.ndarray:
    """Move points, float32 [H, W, 2], by one flow after the other; beyond the border counts the border's flow."""
    for flow in flows:
        points = points + cv2.remap(
            flow, points[..., 0], points[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return points


def _consecutive(frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """T - 1 times: flow to the next frame and flow back from it, float32 [H, W, 2] in pixels of the frames."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = frames.shape[1:3]
    factor = max(1, round(WORKING_PX / max(height, width)))
    large = (width * factor, height * factor)

    def flow(first: np.ndarray, later: np.ndarray) -> np.ndarray:
        found = dis.calc(first, later, np.zeros((*large[::-1], 2), np.float32))
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA) / factor

    grey = (cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), large, interpolation=cv2.INTER_CUBIC) for f in frames)
    return ((flow(first, later), flow(later, first)) for first, later in itertools.pairwise(grey))
