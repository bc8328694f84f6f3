"""Look at a demonstration's stored images without reading them all.

Where each frame is a compressed chunk of its own (our files), the sizes of the chunks say which frames can be equal or
of one colour: only those are read. Other files (LIBERO's own are one uncompressed block) give a band of rows of every
frame instead. Either way what is reported was compared in full.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.hdf5_reading import demo_group, image_dataset, open_hdf5

FLAT_RATIO = 50
"""A frame compressed to less than 1/FLAT_RATIO of its pixels may be of one colour (deflate reaches about 200)."""
BAND_ROWS = 8
"""Rows read of each frame that is not a chunk of its own."""


@dataclass(frozen=True)
class FrameScan:
    """What stands out among all frames of one camera in one demonstration."""

    size: tuple[int, int]  # H, W
    repeated: tuple[int, ...]  # steps whose image equals that of the step before, to the bit
    flat: tuple[int, ...]  # steps whose image has one colour


def read_steps(path: Path, demo: int, camera: str, steps: Sequence[int]) -> np.ndarray:
    """The images of some steps, in the order given: uint8 [len(steps), H, W, 3], ImageFrame.GL."""
    with _images(path, demo, camera) as item:
        return np.stack([item[step] for step in steps])


def scan_frames(path: Path, demo: int, camera: str) -> FrameScan:
    """Repeated and flat frames among all. Raises ConfigError that names file, demonstration and key."""
    with _images(path, demo, camera) as item:
        by_chunk = item.chunks == (1, *item.shape[1:]) and item.compression is not None
        repeated, flat = _scan_chunks(item) if by_chunk else _scan_bands(item)
        return FrameScan((item.shape[1], item.shape[2]), tuple(repeated), tuple(flat))


@contextmanager
def _images(path: Path, demo: int, camera: str) -> Generator[Any]:
    with open_hdf5(path) as file:
        yield image_dataset(demo_group(file, demo), camera)


def _scan_chunks(item: Any) -> tuple[list[int], list[int]]:
    sizes = np.zeros(len(item), np.int64)

    def note(chunk: Any) -> None:
        sizes[chunk.chunk_offset[0]] = chunk.size

    item.id.chunk_iter(note)
    pixels = int(np.prod(item.shape[1:]))
    same_size = (np.flatnonzero(np.diff(sizes) == 0) + 1).tolist()
    repeated = [step for step in same_size if _chunk(item, step) == _chunk(item, step - 1)]
    flat = [step for step in np.flatnonzero(sizes < pixels / FLAT_RATIO).tolist() if _is_flat(item[step])]
    return repeated, flat


def _chunk(item: Any, step: int) -> bytes:
    """A frame's compressed bytes: one writer gives equal bytes to equal images."""
    return item.id.read_direct_chunk((step, 0, 0, 0))[1]


def _scan_bands(item: Any) -> tuple[list[int], list[int]]:
    top = item.shape[1] // 2
    band = item[:, top : top + BAND_ROWS]
    alike = (np.flatnonzero((band[1:] == band[:-1]).all(axis=(1, 2, 3))) + 1).tolist()
    repeated = [step for step in alike if np.array_equal(item[step], item[step - 1])]
    plain = np.flatnonzero((band == band[:, :1, :1]).all(axis=(1, 2, 3))).tolist()
    flat = [step for step in plain if _is_flat(item[step])]
    return repeated, flat


def _is_flat(image: np.ndarray) -> bool:
    return bool((image == image[0, 0]).all())
