"""Histograms of actions as inline SVG: as commanded, and as the policy's targets, with what is clipped."""

from __future__ import annotations

import math

import numpy as np

from configs.choices import Normalization
from data_pipeline.action_checks import clipped_share
from data_pipeline.action_stats import DIMENSIONS, GRIPPER, ActionStatistics
from data_pipeline.inspection_charts import UNITS, Axes
from data_pipeline.svg_parts import svg, upright

_BINS = 41
_COLUMN, _PLOT, _PLOT_HEIGHT = 164, 140, 62
_RAW_TOP, _NORMAL_TOP, _ACTION_HEIGHT = 40, 142, 232
_SHOWN = {Normalization.NORMAL: 4.0, Normalization.BOUNDS: 1.5, Normalization.BOUNDS_Q99: 1.5}
"""The normalised histogram shows values before clipping up to here; those beyond count in the last bar."""


def action_figure(actions: np.ndarray, statistics: ActionStatistics | None, axes: Axes) -> str:
    """Every dimension of actions [N, 7]: as commanded, and beneath it as the policy's target, with what is clipped."""
    columns = "".join(_motion(i, actions, statistics, axes) for i in range(GRIPPER))
    height = _ACTION_HEIGHT if statistics is not None else _NORMAL_TOP - 12
    return svg(_COLUMN * len(DIMENSIONS) - 20, height, columns + _gripper(actions))


def _motion(index: int, actions: np.ndarray, statistics: ActionStatistics | None, axes: Axes) -> str:
    half, left = axes.action[index], index * _COLUMN
    title = f"{DIMENSIONS[index]}, {'cm' if index < 3 else 'rad'} per step"
    parts = [f'<text class="title" x="{left}" y="12">{title}</text>']
    parts.append(_bars(actions[:, index] * UNITS[index], half, left, _RAW_TOP, beyond=math.inf))
    parts += _ends(left, _RAW_TOP, half, half)
    if statistics is not None:
        parts += _bounds(index, statistics, half, left)
        parts += _targets(index, actions, statistics, left)
    return "".join(parts)


def _bounds(index: int, statistics: ActionStatistics, half: float, left: float) -> list[str]:
    """What becomes -1 and 1, over the histogram as commanded and in words."""
    low, high = (float(bound[index]) * UNITS[index] for bound in (statistics.low, statistics.high))
    digits = 1 if index < 3 else 2
    lines = [
        upright("bound", left + _PLOT * (v / half + 1) / 2, _RAW_TOP, _RAW_TOP + _PLOT_HEIGHT)
        for v in (low, high)
        if abs(v) <= half
    ]
    return [f'<text x="{left}" y="27">-1 is {low:.{digits}f}, 1 is {high:.{digits}f}</text>', *lines]


def _targets(index: int, actions: np.ndarray, statistics: ActionStatistics, left: float) -> list[str]:
    """The histogram that the policy is trained on, and what is clipped of it."""
    shown, clips = _SHOWN[statistics.mode], statistics.mode is not Normalization.NORMAL
    targets = (actions[:, index] - statistics.centre[index]) / statistics.unit[index]
    bottom = _NORMAL_TOP + _PLOT_HEIGHT
    says = f"{100 * clipped_share(actions, statistics)[index]:.1f} % clipped" if clips else "not clipped"
    return [
        _bars(targets, shown, left, _NORMAL_TOP, beyond=1 + 1e-4 if clips else math.inf),
        *(upright("bound", left + _PLOT * (v / shown + 1) / 2, _NORMAL_TOP, bottom) for v in (-1, 1)),
        *_ends(left, _NORMAL_TOP, 1, shown),
        f'<text x="{left}" y="{bottom + 28}">{says}</text>',
    ]


def _bars(values: np.ndarray, half: float, left: float, top: float, beyond: float) -> str:
    """A histogram over [-half, half]; values past it count in the last bars, those past `beyond` are orange."""
    inside = np.clip(values, -half, half)
    shares = {
        "fill0": np.histogram(inside[np.abs(values) <= beyond], _BINS, (-half, half))[0],
        "fill1": np.histogram(inside[np.abs(values) > beyond], _BINS, (-half, half))[0],
    }
    peak = max(int(counts.max()) for counts in shares.values())
    width, base = _PLOT / _BINS, top + _PLOT_HEIGHT
    paths = ""
    for kind, counts in shares.items():
        # root of the count: the few steps of a grasp stay visible beside the many that stand still in a dimension
        heights = np.sqrt(counts / peak) * _PLOT_HEIGHT
        bars = "".join(
            f"M{left + i * width:.1f} {base}v{-height:.1f}h{width - 0.4:.1f}V{base}z"
            for i, height in enumerate(heights)
            if counts[i]
        )
        paths += f'<path class="{kind}" d="{bars}"/>' if bars else ""
    return paths + f'<line class="axis" x1="{left}" x2="{left + _PLOT}" y1="{base}" y2="{base}"/>'


def _ends(left: float, top: float, shown: float, half: float) -> list[str]:
    """Numbers at -shown, 0 and shown of an axis over [-half, half]."""
    y = top + _PLOT_HEIGHT + 13
    return [
        f'<text class="{kind}" x="{left + _PLOT * (value / half + 1) / 2:.1f}" y="{y}">{value:.2g}</text>'
        for value, kind in (
            (-shown, "mid" if shown < half else ""),
            (0, "mid"),
            (shown, "mid" if shown < half else "end"),
        )
    ]


def _gripper(actions: np.ndarray) -> str:
    """The last column: shares of closing and opening commands, and what the target says for them."""
    left, base = GRIPPER * _COLUMN, _RAW_TOP + _PLOT_HEIGHT
    parts = [f'<text class="title" x="{left}" y="12">gripper</text>']
    shares = ((-1, "open", "fill0", 1), (1, "close", "fill1", 0))
    for place, (sign, name, kind, target) in enumerate(shares):
        share = float((np.sign(actions[:, GRIPPER]) == sign).mean())
        x, height = left + 12 + place * 62, share * _PLOT_HEIGHT
        parts.append(f'<rect class="{kind}" x="{x}" y="{base - height:.1f}" width="40" height="{height:.1f}"/>')
        parts.append(f'<text class="mid" x="{x + 20}" y="{base - height - 4:.1f}">{100 * share:.0f} %</text>')
        parts.append(f'<text class="mid" x="{x + 20}" y="{base + 13}">{name} {sign:+d}</text>')
        parts.append(f'<text class="mid" x="{x + 20}" y="{base + 28}">target {target}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{left + 124}" y1="{base}" y2="{base}"/>')
    return "".join(parts)
