"""A rollout as a small H.264 film: what the policy saw, upright, and what it thought, beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.image_frame import ImageFrame, convert_image
from data_pipeline.mp4 import write_mp4
from evaluation.thoughts import parts

FRAMES_PER_SECOND = 5
"""One frame per query; at four steps per query and 20 Hz this is real time."""

PICTURE = 320  # pixels, square
PANEL = 400  # pixels, width of the text beside it
_MARGIN = 12
_FONT_PX = 13
_LINE_PX = 16
_CHARACTER_PX = 7
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 34, 40), (120, 126, 134)


def write_film(path: Path, frames: Sequence[tuple[np.ndarray, str]], caption: str) -> None:
    """Write `path` (.mp4), atomically.

    frames: images uint8 [R, R, 3] in ImageFrame.GL with the text of the reasoning, "" without one.
    """
    pages = (page(image, text, caption, number) for number, (image, text) in enumerate(frames))
    write_mp4(path, pages, (PICTURE + PANEL, PICTURE), FRAMES_PER_SECOND)


def page(image: np.ndarray, text: str, caption: str, number: int) -> np.ndarray:
    """One frame: uint8 [PICTURE, PICTURE + PANEL, 3]."""
    sheet = Image.new("RGB", (PICTURE + PANEL, PICTURE), _PAPER)
    upright = Image.fromarray(convert_image(image, ImageFrame.GL, ImageFrame.UPRIGHT))
    sheet.paste(upright.resize((PICTURE, PICTURE), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_PX)
    x, y = PICTURE + _MARGIN, _MARGIN
    thought = [(_INK, f"{tag}: {body}" if tag else body) for tag, body in parts(text)]
    for colour, paragraph in ((_FAINT, f"{caption} - query {number + 1}"), *thought):
        for line in _wrapped(paragraph):
            draw.text((x, y), line, colour, font)
            y += _LINE_PX
        y += _LINE_PX // 4
    return np.asarray(sheet)


def _wrapped(text: str) -> list[str]:
    """Lines that fit the panel; characters outside Latin-1 have no glyph here."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return textwrap.wrap(plain, width=(PANEL - 2 * _MARGIN) // _CHARACTER_PX)
