"""Figures of flow as inline SVG and embedded pictures; equal data give equal bytes."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from flow_pipeline.flow_colors import error_scale, flow_colors, wheel
from flow_pipeline.flow_facts import EDGES_PX

STYLE = """
.bars text.end { text-anchor: end; } .bars text.mid { text-anchor: middle; }
svg.bars { width: 100%; display: block; overflow: visible; } .bars .grid { stroke: var(--rule); }
.bars .b0 { fill: var(--c0); } .bars .b1 { fill: var(--c1); } .bars .edge { stroke: var(--faint); stroke-width: 0.4; }
svg.codes { width: 100%; display: block; } svg.codes text { fill: #1d2733; font-size: 9px; text-anchor: middle; }
svg.codes text.light { fill: #ffffff; } svg.codes text.static { fill: #a9a9a9; }
svg.wheel, svg.scale { display: block; overflow: visible; } svg.wheel { width: 190px; } svg.scale { width: 240px; }
.wheel text, .scale text { text-anchor: middle; } .wheel .ring { fill: none; stroke: #1d2733; stroke-opacity: 0.35; }
img.cells { image-rendering: pixelated; }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 190, 34, 34
_DARK = 110  # luminance below which text on a colour is white


def picture(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] as the address of an embedded PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def photo(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] as the address of an embedded JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def wheel_figure(longest_px: float) -> str:
    """The legend of directions and lengths: a ring at half the scale, its end at the rim."""
    middle, radius = 95, 62
    words = (("right", 1, 0), ("down", 0, 1), ("left", -1, 0), ("up", 0, -1))
    text = "".join(
        f'<text x="{middle + right * (radius + 18)}" y="{middle + down * (radius + 12) + 4}">{word}</text>'
        for word, right, down in words
    )
    rings = "".join(
        f'<circle class="ring" cx="{middle}" cy="{middle}" r="{radius * share:g}"/><text style="fill:#1d2733" '
        f'x="{middle + 34 * share:g}" y="{middle + 34 * share + 4:g}">{longest_px * share:g}</text>'
        for share in (0.5, 1.0)
    )
    disc = f'<image href="{picture(wheel(248, (255, 255, 255)))}" x="{middle - radius}" y="{middle - radius}"'
    disc += f' width="{2 * radius}" height="{2 * radius}" clip-path="circle(50%)"/>'
    return f'<svg class="wheel" viewBox="0 0 190 190" role="img" aria-label="flow">{disc}{rings}{text}</svg>'


def scale_figure(largest_px: float) -> str:
    """The legend of errors."""
    ticks = "".join(f'<text x="{10 + 220 * s:g}" y="30">{largest_px * s:g}</text>' for s in (0, 0.25, 0.5, 0.75, 1))
    bar = f'<image href="{picture(error_scale(220, 1))}" x="10" y="2" width="220" height="12"'
    return (
        f'<svg class="scale" viewBox="0 0 240 34" role="img" aria-label="error">{bar} preserveAspectRatio="none"/>'
        f"{ticks}</svg>"
    )


def length_figure(lengths: np.ndarray) -> str:
    """lengths: int [2, len(EDGES_PX) - 1], moving cells of the flow and of what is decoded there."""
    share = lengths / max(int(lengths[0].sum()), 1)
    top = _nice_top(float(share.max()))
    group = (_WIDTH - _LEFT) / share.shape[1]
    bars = "".join(
        _bar(f"b{series}", _LEFT + group * (i + 0.1 + 0.4 * series), group * 0.4, value / top)
        for series in (0, 1)
        for i, value in enumerate(share[series].tolist())
    )
    names = ["0", *(f"{edge:g}" for edge in EDGES_PX[1:-1])]
    ticks = "".join(
        f'<text class="mid" x="{_LEFT + group * i:.1f}" y="{_HEIGHT - 16}">{n}</text>' for i, n in enumerate(names)
    )
    unit = f'<text class="end" x="{_WIDTH}" y="{_HEIGHT - 2}">pixels at 256 px</text>'
    return _figure(_axis(top) + bars + ticks + unit, "lengths")


def code_figure(used: np.ndarray, mean_flow_px: np.ndarray, longest_px: float) -> str:
    """used: int [N]; mean_flow_px: float [N, 2]. A bar per code that moves, most used first, in its own colour."""
    order = [code for code in np.argsort(-used, kind="stable").tolist() if code and used[code]]
    if not order:
        return '<p class="faint">Every code is the static one.</p>'
    share = used / used.sum()
    top = _nice_top(float(share[order[0]]))
    width = min((_WIDTH - _LEFT) / len(order), 24.0)
    colors = flow_colors(mean_flow_px, longest_px)
    bars = "".join(
        _bar("edge" if width >= 5 else "", _LEFT + width * i, width * 0.9, float(share[code]) / top, _hex(colors[code]))
        for i, code in enumerate(order)
    )
    names = "".join(
        f'<text class="mid" x="{_LEFT + width * (i + 0.45):.1f}" y="{_HEIGHT - 18}">{code}</text>'
        for i, code in enumerate(order)
        if width >= 14
    )
    return _figure(_axis(top) + bars + names, "codes")


def code_grid(codes: np.ndarray, flow_px: np.ndarray, longest_px: float) -> str:
    """One step's codes: int [cells * cells] on float [cells, cells, 2], what they decode to. 0 is a dot."""
    cells, unit = len(flow_px), 20
    colors = flow_colors(flow_px, longest_px)
    parts: list[str] = []
    for index, code in enumerate(codes.tolist()):
        row, column = divmod(index, cells)
        color = colors[row, column]
        kind = "static" if code == 0 else "light" if color @ (0.3, 0.59, 0.11) < _DARK else ""
        at = f'x="{column * unit + unit / 2:g}" y="{row * unit + unit / 2 + 3:g}"'
        parts.append(
            f'<rect x="{column * unit}" y="{row * unit}" width="{unit}" height="{unit}" fill="{_hex(color)}"/>'
        )
        parts.append(f'<text class="{kind}" {at}>{code if code else "·"}</text>')
    return f'<svg class="codes" viewBox="0 0 {cells * unit} {cells * unit}">{"".join(parts)}</svg>'


def _figure(body: str, name: str) -> str:
    return f'<svg class="bars" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{body}</svg>'


def _axis(top: float) -> str:
    floor = _HEIGHT - _BOTTOM
    lines = ""
    for share in (0, 0.5, 1):
        y = floor - (floor - 8) * share
        lines += f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:g}" y2="{y:g}"/>'
        lines += f'<text class="end" x="{_LEFT - 5}" y="{y + 4:g}">{100 * top * share:g} %</text>'
    return lines


def _bar(kind: str, x: float, width: float, height: float, fill: str = "") -> str:
    floor = _HEIGHT - _BOTTOM
    tall = (floor - 8) * height
    color = f' fill="{fill}"' if fill else ""
    size = f'x="{x:.1f}" y="{floor - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
    return f'<rect class="{kind}"{color} {size}/>'


def _nice_top(share: float) -> float:
    return next(top for top in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if share <= top)


def _hex(color: np.ndarray) -> str:
    return "#" + bytes(color.tolist()).hex()
