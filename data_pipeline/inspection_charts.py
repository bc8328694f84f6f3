"""The inspection's figures as inline SVG, made by hand so that equal data give equal bytes.

Blue (c0) is the gripper open and training, orange (c1) is closed, test and clipped: one pair, safe for colour-blind
eyes. Figures of all tasks share their scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.action_stats import GRIPPER
from data_pipeline.inspection import DemoFacts, Inspection, seconds
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.svg_parts import nice_ticks, svg, upright

UNITS = (5.0, 5.0, 5.0, 0.5, 0.5, 0.5)
"""What one action unit commands: cm (translation) and rad (rotation) per step, as the OSC controller scales it."""
STYLE = """
.panels text.title { fill: var(--ink); font-weight: 600; font-size: 12px; }
.panels text.end { text-anchor: end; } .panels text.mid { text-anchor: middle; }
.axis { stroke: var(--faint); stroke-opacity: 0.55; } .bound { stroke: var(--ink); stroke-dasharray: 3 2; }
.limit { stroke: var(--faint); stroke-dasharray: 2 3; }
.fill0 { fill: var(--c0); } .fill1 { fill: var(--c1); }
.path { fill: none; stroke-width: 1.1; stroke-opacity: 0.6; stroke-linejoin: round; }
.median { stroke: var(--ink); stroke-width: 1.5; }
.dot { fill-opacity: 0.6; } .start { fill: var(--card); stroke: var(--ink); stroke-width: 1.1; }
"""

Placing = Callable[[np.ndarray], np.ndarray]
"""Points in cm [..., 2] -> pixels [..., 2]."""
_MAX_PATH_POINTS = 45


@dataclass(frozen=True)
class Axes:
    """Ranges and scales that the figures of all tasks share."""

    longest_s: float  # demonstration or evaluation
    longest_demo_s: float
    limit_s: float  # what an evaluation lasts
    extent_cm: tuple[float, ...]  # along x, y, z: the window that holds any one task's paths
    path_scale: float  # pixels per cm, of both planes
    action: tuple[float, ...]  # half range of the six motions, cm and rad per step


def shared_axes(inspection: Inspection) -> Axes:
    """Axes that hold every task."""
    limit = MAX_STEPS[inspection.subset]
    extent = np.max([np.ptp(_places_cm(task.demos), axis=0) for task in inspection.tasks], axis=0) + 2.0
    largest = np.abs(inspection.actions[:, :GRIPPER]).max(axis=0) * UNITS
    steps = max(demo.num_steps for demo in inspection.demos)
    scales = (_PATH_ACROSS / extent[1], _PATH_ACROSS / extent[0], _PATH_UP / extent[0], _PATH_UP / extent[2])
    halves = [_rounded_up(max(float(part.max()), 1e-3)) for part in (largest[:3], largest[3:])]
    return Axes(
        longest_s=seconds(max(steps, limit)),
        longest_demo_s=seconds(steps),
        limit_s=seconds(limit),
        extent_cm=tuple(extent.tolist()),
        path_scale=float(min(scales)),
        action=(halves[0],) * 3 + (halves[1],) * 3,
    )


def _places_cm(demos: Sequence[DemoFacts]) -> np.ndarray:
    """Where the hand was: float32 [sum T, 3], cm."""
    return 100 * np.concatenate([demo.position for demo in demos])


def _rounded_up(value: float) -> float:
    """To one digit: 0.094 -> 0.1."""
    digit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(round(value / digit, 4)) * digit


# ------------------------------------------------------------------ lengths

_STRIP_WIDTH, _STRIP_HEIGHT = 250, 30


def length_strip(demos: Sequence[DemoFacts], axes: Axes) -> str:
    """One dot per demonstration along time, the median as a line, the evaluation's limit dashed."""
    ordered = sorted(demos, key=lambda demo: (demo.num_steps, demo.id))
    tests_on_top = sorted(enumerate(ordered), key=lambda item: item[1].split == "test")
    dots = "".join(
        f'<circle class="dot {"fill1" if demo.split == "test" else "fill0"}" r="3.2" '
        f'cx="{_strip_x(seconds(demo.num_steps), axes):.1f}" cy="{15 + 5 * (lane % 3 - 1)}"/>'
        for lane, demo in tests_on_top
    )
    median = _strip_x(seconds(float(np.median([demo.num_steps for demo in demos]))), axes)
    lines = upright("limit", _strip_x(axes.limit_s, axes), 2, 28) + upright("median", median, 4, 26)
    return f'<svg class="strip" viewBox="0 0 {_STRIP_WIDTH} {_STRIP_HEIGHT}">{dots}{lines}</svg>'


def length_axis(axes: Axes) -> str:
    """The axis of `length_strip`, for the head of its column."""
    ticks = [tick for tick in nice_ticks(0, axes.longest_s, 4) if abs(tick - axes.limit_s) > 0.12 * axes.longest_s]
    numbers = "".join(
        f'<text class="mid" x="{max(_strip_x(tick, axes), 4):.1f}" y="12">{tick:g}</text>' for tick in ticks
    )
    limit = f'<text class="end" x="{_strip_x(axes.limit_s, axes) + 6:.1f}" y="12">limit {axes.limit_s:g} s</text>'
    return f'<svg class="strip panels" viewBox="0 0 {_STRIP_WIDTH} 16">{numbers}{limit}</svg>'


def _strip_x(time_s: float, axes: Axes) -> float:
    return 4 + time_s / axes.longest_s * (_STRIP_WIDTH - 12)


# ------------------------------------------------------------------ the gripper over time

_TIME_WIDTH, _TIME_HEIGHT, _TIME_BOTTOM = 400, 250, 24


def gripper_figure(demos: Sequence[DemoFacts], axes: Axes) -> str:
    """A bar per demonstration, shortest first: its length, and when the gripper is told to close."""
    ordered = sorted(demos, key=lambda demo: (demo.num_steps, demo.id))
    longest = axes.longest_demo_s
    pitch = min((_TIME_HEIGHT - _TIME_BOTTOM - 8) / len(ordered), 20)
    scale = (_TIME_WIDTH - 36) / longest
    bottom = 4 + pitch * len(ordered)

    def bar(kind: str, first: int, last: int, row: int) -> str:
        x, width = 4 + seconds(first) * scale, seconds(last - first) * scale
        y, height = 4 + row * pitch + 0.12 * pitch, 0.76 * pitch
        return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'

    bars = "".join(
        bar("fill1" if closed else "fill0 rest", first, last, row)
        for row, demo in enumerate(ordered)
        for closed, first, last in runs(demo.closed)
    )
    tests = "".join(
        f'<text x="{8 + seconds(demo.num_steps) * scale:.1f}" y="{4 + row * pitch + pitch / 2 + 4:.1f}">test</text>'
        for row, demo in enumerate(ordered)
        if demo.split == "test"
    )
    ticks = "".join(
        f'<text class="mid" x="{max(4 + tick * scale, 7):.1f}" y="{bottom + 16:.1f}">{tick:g}</text>'
        f"{upright('grid', 4 + tick * scale, 4, bottom + 3)}"
        for tick in nice_ticks(0, longest, 5)
    )
    end = f'<text class="end" x="{_TIME_WIDTH - 2}" y="{bottom + 16:.1f}">s</text>'
    return svg(_TIME_WIDTH, bottom + _TIME_BOTTOM, ticks + bars + tests + end)


def runs(mask: np.ndarray) -> list[tuple[bool, int, int]]:
    """Maximal stretches of one value in mask [T]: (value, first, one past the last)."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return [(bool(mask[a]), a, b) for a, b in itertools.pairwise(edges)]


# ------------------------------------------------------------------ paths of the hand

_PATH_ACROSS, _PATH_UP, _PATH_LEFT, _PATH_TOP, _PATH_BOTTOM = 258, 216, 34, 20, 32


def path_figure(demos: Sequence[DemoFacts], axes: Axes, across: int, up: int) -> str:
    """The hand's paths in one plane (across, up: 0 x, 1 y, 2 z), in cm, to scale; y points to the left.

    Blue with the gripper open, orange closed; a ring where each begins.
    """
    sign = -1 if across == 1 else 1
    places = _places_cm(demos)
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    window = [(float(m) - extent / 2, float(m) + extent / 2) for m, extent in zip(middle, axes.extent_cm, strict=True)]
    wide, high = sorted(sign * v for v in window[across]), window[up]
    scale = axes.path_scale

    def place(points: np.ndarray) -> np.ndarray:
        x = _PATH_LEFT + (sign * points[..., 0] - wide[0]) * scale
        y = _PATH_TOP + (high[1] - points[..., 1]) * scale
        return np.stack([x, y], axis=-1)

    lines, starts = "", ""
    for demo in demos:
        points = place(100 * demo.position[:, (across, up)])
        lines += "".join(
            f'<polyline class="path {"c1" if closed else "c0"}" points="{_points(points[first : last + 1])}"/>'
            for closed, first, last in runs(demo.closed)
        )
        starts += f'<circle class="start" r="2.2" cx="{points[0, 0]:.1f}" cy="{points[0, 1]:.1f}"/>'
    grid = _path_grid(place, window[across], high, "xyz"[across], "xyz"[up])
    return svg(
        _PATH_LEFT + _PATH_ACROSS + 8, _PATH_TOP + (high[1] - high[0]) * scale + _PATH_BOTTOM, grid + lines + starts
    )


def _path_grid(place: Placing, wide: tuple[float, float], high: tuple[float, float], x_name: str, y_name: str) -> str:
    (left, bottom), (right, top) = place(np.array([wide[0], high[0]])), place(np.array([wide[1], high[1]]))
    left, right = min(left, right), max(left, right)
    parts: list[str] = []
    for tick in nice_ticks(*wide, 5):
        x = float(place(np.array([tick, high[0]]))[0])
        parts.append(upright("grid", x, top, bottom))
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 13:.1f}">{tick:g}</text>')
    for tick in nice_ticks(*high, 5):
        y = float(place(np.array([wide[0], tick]))[1])
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{left - 5:.1f}" y="{y + 4:.1f}">{tick:g}</text>')
    middle = (left + right) / 2
    parts.append(f'<text class="mid" x="{middle:.1f}" y="{bottom + 27:.1f}">{x_name}, cm</text>')
    parts.append(f'<text class="end" x="{left - 2:.1f}" y="{top - 9:.1f}">{y_name}, cm</text>')
    return "".join(parts)


def _points(path: np.ndarray) -> str:
    stride = max(1, -(-len(path) // _MAX_PATH_POINTS))
    kept = [*path[:-1:stride].tolist(), path[-1].tolist()]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
