"""The one result type of every optical-flow backend, its reduced form, and the file that holds it.

Stored flow is in pixels of a 256 x 256 image (POINT_GRID units) whatever the rendering's size, ROT180 frame, agentview,
as means over STORED_CELLS x STORED_CELLS cells: enough for any tokenizer here and 4 KB per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipeline.contract import POINT_GRID, EnvironmentProblem, EpisodeId
from data_pipeline.flow_tokens import FLOW_COMMAND
from data_pipeline.packed import read_packed, write_packed

STORED_CELLS = 32
BYTES_PER_STEP = STORED_CELLS**2 * 2 * 2  # two float16 per cell


@dataclass(frozen=True)
class FlowField:
    """Dense optical flow from one image to a later one."""

    flow_px: np.ndarray  # float32 [H, W, 2]: (dx, dy) in pixels of this image, x right, y down
    valid: np.ndarray  # bool [H, W]: where flow_px means something
    occluded: np.ndarray  # bool [H, W]: what the later image does not show: it is hidden there, or outside
    provenance: str  # backend and what it used


@dataclass(frozen=True)
class EpisodeFlow:
    """Reduced flow of one episode from step t to step t + k_effective[t]."""

    flow: np.ndarray  # float16 [T, STORED_CELLS, STORED_CELLS, 2], pixels at 256 px scale, ROT180
    k_effective: np.ndarray  # uint16 [T]


def k_effective(num_steps: int, k: int) -> np.ndarray:
    """How far ahead each step can look: uint16 [T], min(k, T - 1 - t)."""
    return np.minimum(k, np.arange(num_steps)[::-1]).astype(np.uint16)


def cell_means(field: FlowField, cells: int = STORED_CELLS) -> np.ndarray:
    """Mean flow of the valid pixels in each cell, scaled to a 256 px image; 0 where a cell has none.

    Returns float32 [cells, cells, 2].
    """
    height, width = field.valid.shape
    scale = np.array([POINT_GRID / width, POINT_GRID / height], np.float32)
    weight = field.valid.astype(np.float32)
    total = cv2.resize(field.flow_px * weight[..., None], (cells, cells), interpolation=cv2.INTER_AREA)
    count = cv2.resize(weight, (cells, cells), interpolation=cv2.INTER_AREA)
    return total * scale / np.maximum(count, 1e-6)[..., None]


def inside(points: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Which continuous points (x, y), float [..., 2], lie in an image of size (H, W): bool [...]."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])


def save_flow(path: Path, episodes: Mapping[EpisodeId, EpisodeFlow], manifest: Mapping[str, Any]) -> None:
    """Write an .npz (numpy reads it) with a manifest that lists its episodes, atomically; equal values, equal bytes."""
    flows = {f"{episode}/flow": found.flow for episode, found in episodes.items()}
    header = {**manifest, "episodes": sorted(map(str, episodes))}
    write_packed(path, header, flows | {f"{episode}/k_effective": f.k_effective for episode, f in episodes.items()})


def load_flow(path: Path) -> tuple[dict[EpisodeId, EpisodeFlow], dict[str, Any]]:
    """Read what `save_flow` was given: (episodes, manifest).

    Raises EnvironmentProblem where the file is missing or torn, or does not hold the episodes that it lists.
    """
    command = FLOW_COMMAND.format(subset="<subset>", path="flow_tokens/<subset>_flow.json")
    manifest, arrays = read_packed(path, f"make it with `{command}`")
    try:
        names = sorted({name.rpartition("/")[0] for name in arrays} | set(manifest.pop("episodes")))
        episodes = {EpisodeId.parse(n): EpisodeFlow(arrays[f"{n}/flow"], arrays[f"{n}/k_effective"]) for n in names}
    except (KeyError, ValueError) as error:
        raise EnvironmentProblem(f"{path} is damaged ({error} is missing); make it with `{command}`") from error
    return episodes, manifest
