"""A demonstration with its chain of thought drawn on it: boxes, where the gripper goes, what is said, which segment.

The picture is the policy's own (ImageFrame.ROT180), because boxes and points are in its frame.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.contact_sheet import picture
from data_pipeline.contract import CONTROL_HZ, POINT_GRID, BoundingBox, StepReasoning
from data_pipeline.mp4 import write_mp4

PICTURE, PANEL, BAR = 384, 440, 16  # pixels: the square picture, the text beside it, the bar of segments below
SIZE = (PICTURE + PANEL, PICTURE + BAR)
EVERY = 2  # steps between pictures
_SCALE = PICTURE / POINT_GRID
_MARGIN, _FONT_PX, _LINE_PX, _CHARACTER_PX = 12, 13, 16, 7
_PAPER, _INK, _FAINT, _TRACK, _LABEL = (250, 250, 248), (30, 34, 40), (98, 104, 112), (255, 60, 60), (255, 255, 255)
_COLOURS = ((31, 111, 235), (176, 92, 10), (28, 120, 80), (130, 80, 223), (200, 60, 120), (0, 118, 128))


@dataclass(frozen=True)
class Stretch:
    """Steps start <= t < stop with one subtask."""

    start: int
    stop: int
    step: StepReasoning | None  # the first of them; None: no reasoning


def stretches(steps: Sequence[StepReasoning | None]) -> list[Stretch]:
    """The segments of an annotation, as its subtasks tell them."""
    subtasks = [step.subtask if step is not None else None for step in steps]
    runs = [list(run) for _, run in groupby(range(len(steps)), key=subtasks.__getitem__)]
    return [Stretch(run[0], run[-1] + 1, steps[run[0]]) for run in runs]


def write_reasoning_film(
    path: Path, frames: np.ndarray, steps: Sequence[StepReasoning | None], now: np.ndarray | None, caption: str
) -> None:
    """Write `path` (.mp4) in real time, every EVERY steps.

    frames: uint8 [T, H, W, 3] in ImageFrame.GL; now: int [T, 2], the gripper on the POINT_GRID, None if unknown.
    """
    write_mp4(path, _pictures(frames, steps, now, caption), SIZE, CONTROL_HZ // EVERY)


def _pictures(
    frames: np.ndarray, steps: Sequence[StepReasoning | None], now: np.ndarray | None, caption: str
) -> Iterator[np.ndarray]:
    for t in range(0, len(steps), EVERY):
        yield drawn(frames[t], steps, t, None if now is None else tuple(now[t].tolist()), caption)


def drawn(
    frame: np.ndarray, steps: Sequence[StepReasoning | None], t: int, now: tuple[int, int] | None, caption: str
) -> np.ndarray:
    """One picture of the film: uint8 [height, width, 3] of SIZE."""
    sheet = Image.new("RGB", SIZE, _PAPER)
    sheet.paste(picture(frame, PICTURE), (0, 0))
    draw, step = ImageDraw.Draw(sheet), steps[t]
    if step is not None:
        for number, box in enumerate(step.visible_objects):
            _draw_box(draw, box, _COLOURS[number % len(_COLOURS)])
        _draw_track(draw, [*([now] if now else []), *step.gripper])
    _draw_words(draw, _paragraphs(step, f"{caption}, step {t} of {len(steps)}"))
    _draw_bar(draw, stretches(steps), t, len(steps))
    return np.asarray(sheet)


def _draw_box(draw: ImageDraw.ImageDraw, box: BoundingBox, colour: tuple[int, int, int]) -> None:
    corners = [box.x0 * _SCALE, box.y0 * _SCALE, (box.x1 + 1) * _SCALE - 1, (box.y1 + 1) * _SCALE - 1]
    draw.rectangle(corners, outline=colour, width=2)
    font, name = ImageFont.load_default(_FONT_PX), _latin(box.name)
    width = draw.textlength(name, font) + 6
    left, top = min(corners[0], PICTURE - width), max(corners[1] - _LINE_PX, 0)  # not over the text beside it
    draw.rectangle([left, top, left + width - 1, top + _LINE_PX - 1], fill=colour)
    draw.text((left + 3, top), name, _LABEL, font)


def _draw_track(draw: ImageDraw.ImageDraw, points: Sequence[tuple[int, int]]) -> None:
    """From the first point on, the first one large."""
    places = [((x + 0.5) * _SCALE, (y + 0.5) * _SCALE) for x, y in points]
    if len(places) > 1:
        draw.line(places, fill=_LABEL, width=4)
        draw.line(places, fill=_TRACK, width=2)
    for number, place in enumerate(places):
        draw.circle(place, 3 if number else 5, fill=_TRACK, outline=_LABEL)


def _paragraphs(step: StepReasoning | None, head: str) -> list[tuple[tuple[int, int, int], str]]:
    if step is None:
        return [(_FAINT, head), (_INK, "no reasoning for this step")]
    said = (
        ("TASK", step.task),
        ("PLAN", step.plan),
        ("SUBTASK REASONING", step.subtask_reasoning),
        ("SUBTASK", step.subtask),
        ("MOVE REASONING", step.move_reasoning),
        ("MOVE", step.move),
    )
    return [(_FAINT, head), *((_INK, f"{tag}: {text}") for tag, text in said if text)]


def _draw_words(draw: ImageDraw.ImageDraw, paragraphs: Sequence[tuple[tuple[int, int, int], str]]) -> None:
    font, y = ImageFont.load_default(_FONT_PX), _MARGIN
    for colour, text in paragraphs:
        for line in textwrap.wrap(_latin(text), width=(PANEL - 2 * _MARGIN) // _CHARACTER_PX):
            draw.text((PICTURE + _MARGIN, y), line, colour, font)
            y += _LINE_PX
        y += _LINE_PX // 2


def _draw_bar(draw: ImageDraw.ImageDraw, parts: Sequence[Stretch], t: int, steps: int) -> None:
    """Segments side by side over the whole width, a mark at step t."""
    width, top = SIZE[0], PICTURE
    for number, part in enumerate(parts):
        colour = _COLOURS[number % len(_COLOURS)] if part.step is not None else _FAINT
        left, right = part.start * width // steps, part.stop * width // steps - 2
        draw.rectangle([left, top + 4, max(left, right), top + BAR - 4], fill=colour)
    draw.rectangle([t * width // steps - 1, top, t * width // steps + 2, top + BAR - 1], fill=_INK)


def _latin(text: str) -> str:
    """Characters outside Latin-1 have no glyph here."""
    return text.encode("latin-1", "replace").decode("latin-1")
