"""Figures as inline SVG, made by hand so that equal data gives equal bytes. Colours are the page's CSS variables."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from evaluation.story import Curve

WIDTH, HEIGHT = 330, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30
MAX_POINTS = 240
"""A line has no more points than the picture has room for."""


def loss_figure(curves: Sequence[Curve], series: str, labels: Sequence[str], title: str) -> str:
    """One panel: the loss `series` of each curve over steps, logarithmic. Colour i belongs to labels[i]."""
    lines = [(labels.index(c.label), _thin(c.series[series])) for c in curves if c.series.get(series)]
    points = [point for _, line in lines for point in line if point[1] > 0]
    if not points:
        return ""
    steps = (min(p[0] for p in points), max(p[0] for p in points))
    low, high = _decades(min(p[1] for p in points), max(p[1] for p in points))

    def place(step: float, loss: float) -> tuple[float, float]:
        across = (step - steps[0]) / max(steps[1] - steps[0], 1)
        up = (math.log(loss) - math.log(low)) / (math.log(high) - math.log(low))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    ticks = "".join(_tick(value, place(steps[0], value)[1]) for value in _ticks(low, high))
    paths = "".join(
        f'<polyline class="line c{index % 6}" points="{_points([place(s, v) for s, v in line if v > 0])}"/>'
        for index, line in lines
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 10}">{steps[0]}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">step {steps[1]}</text>'
    )
    name = html.escape(title)
    return (
        f'<figure class="chart"><figcaption>{name}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{ticks}{paths}{ends}</svg></figure>'
    )


def _thin(line: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = max(1, -(-len(line) // MAX_POINTS))
    return [*line[:-1:stride], line[-1]]


def _decades(low: float, high: float) -> tuple[float, float]:
    """A little room, and never an empty range."""
    return low * 0.9, max(high * 1.1, low * 1.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round values in the range; finer ones where the range is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        values = [round(mantissa * 10.0**power, 9) for power in powers for mantissa in mantissas]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 3:
            return inside
    return inside


def _tick(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _points(line: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
