"""Frames for people: the contact sheet of a subset, and single frames small enough to stand in a page.

Every image is shown as the policy gets it: ImageFrame.ROT180. Equal data give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.contract import AGENTVIEW, WRIST
from data_pipeline.image_frame import policy_image
from data_pipeline.inspection import SHEET_COLUMNS, DemoFacts, Inspection, Still, TaskFacts, seconds
from data_pipeline.whole_files import written_whole

WIDTH = 1600  # pixels
_MARGIN, _GAP = 24, 18
_CELL = (WIDTH - 2 * _MARGIN + _GAP) // SHEET_COLUMNS - _GAP
_BIG = 164  # agentview
_SMALL = _CELL - _BIG - 4  # wrist
_HEADER, _TITLE, _ROW_GAP = 64, 30, 20
_ROW = _TITLE + _BIG + _ROW_GAP
_PAPER, _INK, _FAINT = (251, 251, 249), (29, 39, 51), (102, 113, 126)


def write_sheet(path: Path, inspection: Inspection) -> None:
    """Write the contact sheet (.png), atomically: a row per task, its typical demonstration from 0 to 100 %."""
    with written_whole(path) as partial:
        contact_sheet(inspection).save(partial, optimize=True)


def contact_sheet(inspection: Inspection) -> Image.Image:
    """The sheet as an image, WIDTH pixels wide."""
    sheet = Image.new("RGB", (WIDTH, _HEADER + _ROW * len(inspection.tasks) + 4), _PAPER)
    draw = ImageDraw.Draw(sheet)
    name = f"LIBERO-{inspection.subset.value.capitalize()}: one demonstration per task, of median length"
    draw.text((_MARGIN, 16), name, _INK, ImageFont.load_default(24))
    how = "agentview and wrist camera, as the policy gets images (turned by 180 degrees)"
    draw.text((WIDTH - _MARGIN, 22), how, _FAINT, ImageFont.load_default(15), anchor="ra")
    for row, task in enumerate(inspection.tasks):
        _draw_row(sheet, draw, task, _HEADER + row * _ROW)
    return sheet


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, task: TaskFacts, top: int) -> None:
    demo = typical_demo(task)
    draw.text((_MARGIN, top), f"{task.task_id}   {task.instruction}", _INK, ImageFont.load_default(18))
    facts = f"{demo.id}, {seconds(demo.num_steps):.1f} s"
    draw.text((WIDTH - _MARGIN, top + 3), facts, _FAINT, ImageFont.load_default(15), anchor="ra")
    for column, still in enumerate(task.stills):
        lines = still_lines(demo, still, column)
        _draw_cell(sheet, draw, lines, still, (_MARGIN + column * (_CELL + _GAP), top + _TITLE))


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, lines: Sequence[str], still: Still, corner: tuple[int, int]
) -> None:
    x, y = corner
    sheet.paste(picture(still.images[AGENTVIEW], _BIG), (x, y))
    sheet.paste(picture(still.images[WRIST], _SMALL), (x + _BIG + 4, y))
    for number, line in enumerate(lines):
        at = (x + _BIG + 8, y + _SMALL + 10 + 20 * number)
        draw.text(at, line, _FAINT if number else _INK, ImageFont.load_default(15))


def typical_demo(task: TaskFacts) -> DemoFacts:
    """The demonstration that the stills show."""
    return next(demo for demo in task.demos if demo.id == task.typical)


def still_lines(demo: DemoFacts, still: Still, column: int) -> tuple[str, str, str]:
    """What stands beside the still of a column: how far, when, what the gripper is told."""
    return (
        f"{100 * column // (SHEET_COLUMNS - 1)} %",
        f"{seconds(still.step):.1f} s",
        "closed" if demo.closed[still.step] else "open",
    )


def picture(image: np.ndarray, size: int) -> Image.Image:
    """An image of the simulator (uint8 [H, W, 3], ImageFrame.GL) as the policy gets it, size x size pixels."""
    return Image.fromarray(policy_image(image, size))


def jpeg(image: np.ndarray, size: int) -> bytes:
    """`picture` as a JPEG file; never larger than the image itself."""
    file = io.BytesIO()
    picture(image, min(size, image.shape[0])).save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue()
