"""A demonstration with its flow, what the tokens say of it, and the error, side by side, as a film.

The frame is the policy's own (ImageFrame.ROT180); flow is in its directions, pixels at 256 px.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.contact_sheet import picture
from data_pipeline.contract import CONTROL_HZ
from data_pipeline.mp4 import write_mp4
from flow_pipeline.flow_colors import error_colors, error_scale, flow_colors, wheel
from flow_pipeline.flow_facts import errors
from flow_pipeline.flow_page import Scales

PICTURE, GAP, TOP, BOTTOM = 256, 10, 30, 150  # pixels: the square pictures, between them, above and below them
SIZE = (4 * PICTURE + 5 * GAP, TOP + PICTURE + BOTTOM)
EVERY = 2  # steps between pictures
_PAPER, _INK, _FAINT, _RULE = (250, 250, 248), (30, 34, 40), (110, 116, 124), (222, 225, 228)
_BLUE, _ORANGE = (31, 111, 235), (217, 130, 43)
_WHEEL = 92
_GRAPH = (GAP, TOP + PICTURE + 50, GAP + 3 * PICTURE - 98, SIZE[1] - 14)  # left, top, right, bottom


@dataclass(frozen=True)
class FilmedFlow:
    """One demonstration."""

    caption: str
    frames: np.ndarray  # uint8 [T, H, W, 3], ImageFrame.GL
    flow: np.ndarray  # float32 [T, C, C, 2]
    decoded: np.ndarray  # float32 [T, D, D, 2]
    k_effective: np.ndarray  # int [T]
    k: int


def write_flow_film(path: Path, demo: FilmedFlow, scales: Scales) -> None:
    """Write `path` (.mp4) in real time, every EVERY steps."""
    write_mp4(path, film_pictures(demo, range(0, len(demo.frames), EVERY), scales), SIZE, CONTROL_HZ // EVERY)


def film_pictures(demo: FilmedFlow, steps: Iterable[int], scales: Scales) -> Iterator[np.ndarray]:
    """Pictures of some steps: uint8 [height, width, 3] of SIZE."""
    background = _background(demo, scales)
    for t in steps:
        sheet = background.copy()
        draw = ImageDraw.Draw(sheet)
        for number, (name, pixels) in enumerate(_panels(demo, t, scales)):
            x = GAP + number * (PICTURE + GAP)
            large = cv2.resize(pixels, (PICTURE, PICTURE), interpolation=cv2.INTER_NEAREST_EXACT)
            sheet.paste(Image.fromarray(large), (x, TOP))
            draw.rectangle([x - 1, TOP - 1, x + PICTURE, TOP + PICTURE], outline=_RULE)
            draw.text((x, 7), name, _INK, ImageFont.load_default(15))
        left, top, right, bottom = _GRAPH
        x = left + (right - left) * t // max(len(demo.frames) - 1, 1)
        draw.rectangle([x - 1, top - 2, x + 1, bottom + 3], fill=_INK)
        yield np.asarray(sheet)


def _panels(demo: FilmedFlow, t: int, scales: Scales) -> list[tuple[str, np.ndarray]]:
    """Names and uint8 [S, S, 3] of the four pictures."""
    error = errors(demo.flow[t : t + 1], demo.decoded[t : t + 1])[0]
    has_tokens = bool(demo.k_effective[t] * 2 >= demo.k)
    return [
        (f"frame {t}", np.asarray(picture(demo.frames[t], PICTURE))),
        (f"flow to frame {t + int(demo.k_effective[t])}", flow_colors(demo.flow[t], scales.longest_px)),
        (
            "decoded tokens" if has_tokens else "decoded; not used, too near the end",
            flow_colors(demo.decoded[t], scales.longest_px),
        ),
        (f"error, mean {error.mean():.1f} px", error_colors(error, scales.error_px)),
    ]


def _background(demo: FilmedFlow, scales: Scales) -> Image.Image:
    """Caption, graph and legends."""
    sheet = Image.new("RGB", SIZE, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, TOP + PICTURE + 6), _latin(demo.caption), _INK, ImageFont.load_default(14))
    _draw_graph(draw, demo)
    x, y = SIZE[0] - GAP - _WHEEL - 56, TOP + PICTURE + 30
    sheet.paste(Image.fromarray(wheel(_WHEEL, _PAPER)), (x, y))
    font = ImageFont.load_default(12)
    for word, at, anchor in (
        ("right", (x + _WHEEL + 4, y + _WHEEL // 2), "lm"),
        ("left", (x - 4, y + _WHEEL // 2), "rm"),
        ("up", (x + _WHEEL // 2, y - 3), "mb"),
        ("down", (x + _WHEEL // 2, y + _WHEEL + 3), "mt"),
    ):
        draw.text(at, word, _FAINT, font, anchor=anchor)
    draw.text((x + _WHEEL + 4, y + _WHEEL - 8), f"rim {scales.longest_px:g} px", _FAINT, font, anchor="lm")
    left = x - 198
    sheet.paste(Image.fromarray(error_scale(140, 12)), (left, y + 26))
    draw.text((left, y + 10), "error", _FAINT, font)
    for share, anchor in ((0, "lt"), (0.5, "mt"), (1, "rt")):
        draw.text((left + 140 * share, y + 42), f"{scales.error_px * share:g}", _FAINT, font, anchor=anchor)
    return sheet


def _draw_graph(draw: ImageDraw.ImageDraw, demo: FilmedFlow) -> None:
    """Mean length of the flow and mean error of each step; grey: steps without tokens."""
    left, top, right, bottom = _GRAPH
    flow, error = np.linalg.norm(demo.flow, axis=-1).mean((1, 2)), errors(demo.flow, demo.decoded).mean((1, 2))
    highest = max(float(flow.max()), float(error.max()), 1e-6)
    along = left + (right - left) * np.arange(len(flow)) / max(len(flow) - 1, 1)
    missing = along[demo.k_effective * 2 < demo.k]
    if len(missing):
        draw.rectangle([float(missing[0]), top, right, bottom], fill=_RULE)
    for values, color in ((flow, _BLUE), (error, _ORANGE)):
        height = bottom - (bottom - top) * values / highest
        draw.line(list(zip(along.tolist(), height.tolist(), strict=True)), fill=color, width=2)
    draw.line([left, bottom, right, bottom], fill=_FAINT)
    font = ImageFont.load_default(12)
    draw.text((left, top - 4), f"mean flow, up to {flow.max():.1f} px", _BLUE, font, anchor="lb")
    draw.text((left + 180, top - 4), f"mean error, up to {error.max():.1f} px", _ORANGE, font, anchor="lb")


def _latin(text: str) -> str:
    """Characters outside Latin-1 have no glyph here."""
    return text.encode("latin-1", "replace").decode("latin-1")
