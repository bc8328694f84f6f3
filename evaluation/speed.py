"""Success against latency, row by row: a small figure and the numbers under it, for the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from data_pipeline.html_page import head_row, section, table
from evaluation.records import percentiles
from evaluation.statistics import Interval, wilson
from evaluation.table import AVERAGE, Row, RunRecord, percent

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 34
STYLE = ".dot { fill: var(--card); stroke-width: 2.4; }\n"


@dataclass(frozen=True)
class Speed:
    """One row of the table: how often it succeeds, and how long the robot waits for each answer."""

    label: str
    mode: str
    successes: int
    trials: int
    queries: int
    latency_s: Mapping[str, float]  # p50, p95
    tokens: Mapping[str, float]  # p50, p95

    @property
    def rate(self) -> float:
        """Share of successes."""
        return self.successes / self.trials

    @property
    def interval(self) -> Interval:
        """Wilson, 95 %."""
        return wilson(self.successes, self.trials)


def speeds(records: Sequence[RunRecord], rows: Sequence[Row]) -> tuple[Speed, ...]:
    """Of the rows that took time to answer: a control that computes nothing has no latency."""
    found: list[Speed] = []
    for row in rows:
        episodes = [e for r in records if r.phase == row.phase for e in r.episodes if e.key.mode == row.mode]
        measured: dict[str, Any] = percentiles(episodes)
        cells = [cell for name, cell in row.cells.items() if name != AVERAGE]
        successes, trials = sum(cell.successes for cell in cells), sum(cell.trials for cell in cells)
        if trials and measured["latency_s"].get("p50"):
            found.append(Speed(row.label, row.mode, successes, trials, **measured))
    return tuple(found)


def speed_section(rows: Sequence[Speed]) -> str:
    """The figure and the table; nothing where no row has a latency."""
    if not rows:
        return ""
    head = ("", "success", "latency p50", "p95", "tokens per query p50", "p95", "queries")
    body = "".join(_row(number, row) for number, row in enumerate(rows))
    note = '<p class="faint">Latency: how long the robot waits for an answer, on the machine that evaluated.</p>'
    return section("Success against latency", note + _figure(rows) + table(head_row(head), body))


def _row(number: int, row: Speed) -> str:
    dot = (
        f'<svg viewBox="0 0 14 12" width="14" height="12"><circle class="dot c{number % 6}" cx="7" cy="6" r="4"/></svg>'
    )
    cells = [
        f"{row.successes}/{row.trials} · {percent(row.rate)} %",
        *(f"{1000 * row.latency_s[p]:.0f} ms" for p in ("p50", "p95")),
        *(f"{row.tokens[p]:.0f}" for p in ("p50", "p95")),
        str(row.queries),
    ]
    name = f'<th>{dot} {escape(row.label)} <span class="mode">{escape(row.mode)}</span></th>'
    return f"<tr>{name}" + "".join(f'<td class="nowrap">{cell}</td>' for cell in cells) + "</tr>"


def _figure(rows: Sequence[Speed]) -> str:
    """A dot per row at (p50, success), with the interval of its success; latency is logarithmic."""
    low = min(row.latency_s["p50"] for row in rows) / 1.5
    high = max(row.latency_s["p50"] for row in rows) * 1.5

    def across(seconds: float) -> float:
        return LEFT + math.log(seconds / low) / math.log(high / low) * (WIDTH - LEFT - RIGHT)

    def up(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(s):.1f}" y2="{up(s):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{up(s) + 4:.1f}" text-anchor="end">{percent(s)} %</text>'
        for s in (0, 0.25, 0.5, 0.75, 1)
    )
    dots = "".join(
        f'<line class="c{i % 6}" x1="{across(r.latency_s["p50"]):.1f}" x2="{across(r.latency_s["p50"]):.1f}" '
        f'y1="{up(r.interval.low):.1f}" y2="{up(r.interval.high):.1f}"/>'
        f'<circle class="dot c{i % 6}" cx="{across(r.latency_s["p50"]):.1f}" cy="{up(r.rate):.1f}" r="5">'
        f"<title>{escape(r.label)} {escape(r.mode)}</title></circle>"
        for i, r in enumerate(rows)
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{1000 * low:.0f} ms</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">p50 per query: {1000 * high:.0f} ms</text>'
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Success against latency">{grid}{dots}{ends}</svg>'
    )
    return f'<figure class="chart" style="max-width: {WIDTH + 60}px; margin: 0 0 16px">{svg}</figure>'
