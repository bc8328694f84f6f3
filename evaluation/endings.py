"""How the episodes of each row ended, as bars of the report page.

Success is blue, failures go from dark (not even touched) to light (nearly done), faults are grey: told apart without
red and green. Every number is also a text beside its bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from data_pipeline.html_page import head_row, section, table
from evaluation.failures import Category, tally, told
from evaluation.table import DASH, Row, RunRecord

_COLOURS = {  # light: fill, text on it; dark: fill; the text is dark there
    Category.SUCCESS: ("#1f6fb0", "#fff", "#58a6ff"),
    Category.POLICY_FAULT: ("#57606a", "#fff", "#8b949e"),
    Category.NEVER_TOUCHED: ("#662506", "#fff", "#c4531a"),
    Category.WRONG_OBJECT: ("#993404", "#fff", "#e2671f"),
    Category.NOT_GRASPED: ("#c04602", "#fff", "#f58233"),
    Category.DROPPED: ("#ec7014", "#000", "#fd9a4d"),
    Category.MISPLACED: ("#fe9929", "#000", "#fdb678"),
    Category.LOST: ("#fec44f", "#000", "#fdd0a2"),
    Category.OUT_OF_TIME: ("#fee391", "#000", "#feedde"),
    Category.ERROR: ("#c9d1d9", "#000", "#c9d1d9"),
}
_CLASS = {category: f"e{number}" for number, category in enumerate(Category)}
STYLE = (
    """
.stack { display: flex; gap: 2px; min-width: 150px; height: 22px; }
.stack span { min-width: 4px; overflow: hidden; text-align: center; font-size: 12px; line-height: 22px;
  border-radius: 2px; box-shadow: inset 0 0 0 1px rgba(90, 90, 90, 0.45); }
.ends td + td, .ends th + th + th { padding-left: 6px; padding-right: 6px; }
.ends thead th i { display: block; width: 22px; height: 10px; border-radius: 2px; margin-bottom: 4px; }
"""
    + "".join(f".{_CLASS[c]} {{ background: {fill}; color: {text}; }}\n" for c, (fill, text, _) in _COLOURS.items())
    + "@media (prefers-color-scheme: dark) { "
    + " ".join(f".{_CLASS[c]} {{ background: {fill}; color: #000; }}" for c, (_, _, fill) in _COLOURS.items())
    + " }\n"
)


@dataclass(frozen=True)
class Ending:
    """One row of the table and how its episodes ended, all suites together."""

    label: str
    mode: str
    counts: Mapping[Category, int]


def endings(records: Sequence[RunRecord], rows: Sequence[Row]) -> tuple[Ending, ...]:
    """Of the rows whose failures have milestones."""
    found: list[Ending] = []
    for row in rows:
        episodes = [e for r in records if r.phase == row.phase for e in r.episodes if e.key.mode == row.mode]
        if told(episodes):
            found.append(Ending(row.label, row.mode, tally(episodes)))
    return tuple(found)


def endings_section(rows: Sequence[Ending]) -> str:
    """A bar per row, and the counts of every category that occurs."""
    shown = [category for category in Category if any(category in row.counts for row in rows)]
    if not shown:
        return ""
    names = "".join(f'<th><i class="{_CLASS[c]}"></i>{escape(c)}</th>' for c in shown)
    head = head_row(("", "episodes, all suites")).removesuffix("</tr>") + names + "</tr>"
    return section("How episodes ended", table(head, "".join(_row(row, shown) for row in rows), "ends"))


def _row(row: Ending, shown: Sequence[Category]) -> str:
    bar = "".join(
        f'<span class="{_CLASS[c]}" style="flex: {n} 1 0" title="{escape(c)}: {n}">{n}</span>'
        for c, n in row.counts.items()
    )
    cells = "".join(f"<td>{row.counts.get(category, DASH)}</td>" for category in shown)
    name = f'<th>{escape(row.label)} <span class="mode">{escape(row.mode)}</span></th>'
    return f'<tr>{name}<td><div class="stack">{bar}</div></td>{cells}</tr>'
