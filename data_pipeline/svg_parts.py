"""What the inspection's figures are put together from: frames, lines and round numbers, as SVG text."""

from __future__ import annotations

import math


def svg(width: float, height: float, body: str) -> str:
    """A figure of width x height units; body: its elements."""
    return f'<svg class="panels" viewBox="0 0 {width:.0f} {height:.0f}">{body}</svg>'


def upright(kind: str, x: float, top: float, bottom: float) -> str:
    """An upright line of CSS class `kind`."""
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values in [low, high], at most `most` + 1."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
