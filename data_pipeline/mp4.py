"""Pictures -> a small H.264 film. The same pictures give the same bytes: one encoder thread, no time stamps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from data_pipeline.whole_files import written_whole

_BIT_EXACT = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-crf", "26"]


def write_mp4(path: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], frames_per_second: int) -> None:
    """Write `path`, atomically. pictures: uint8 [height, width, 3]; size: (width, height), even numbers."""
    with written_whole(path) as partial:
        writer = imageio_ffmpeg.write_frames(
            str(partial),
            size,
            fps=frames_per_second,
            codec="libx264",
            macro_block_size=2,
            quality=None,  # pyright: ignore[reportArgumentType] - `-crf` decides
            output_params=_BIT_EXACT,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
