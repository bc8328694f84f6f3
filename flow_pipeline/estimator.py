"""What a backend of optical flow is, and the pictures that those without a simulator look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from data_pipeline.contract import Episode
from data_pipeline.image_frame import ImageFrame, convert_image
from flow_pipeline.flow_field import FlowField, inside


class FlowEstimator(Protocol):
    """A backend."""

    def episode(self, episode: Episode) -> Iterator[FlowField]:
        """T fields in the ROT180 frame, from step t to step min(t + k, T - 1)."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def policy_frames(episode: Episode, camera: str) -> np.ndarray:
    """Images of one of CAMERAS in the ROT180 frame: uint8 [T, H, W, 3]."""
    return convert_image(episode.frames(camera), ImageFrame.GL, ImageFrame.ROT180)


def stays_inside(flow: np.ndarray) -> np.ndarray:
    """Which pixels of an image end up in it. flow: [H, W, 2], pixels; returns bool [H, W]."""
    columns, rows = np.meshgrid(np.arange(flow.shape[1]) + 0.5, np.arange(flow.shape[0]) + 0.5)
    return inside(flow + np.stack([columns, rows], -1), flow.shape)
