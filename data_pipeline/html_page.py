"""Self-contained HTML pages: the frame, the style and the tables that every page of this project shares.

No scripts, no fonts, no network; light and dark. Text passes through `html.escape` before it gets here, or in here
where a function says "plain text".
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = """
:root { --paper: #fbfbf9; --card: #ffffff; --ink: #1d2733; --faint: #66717e; --rule: #e2e5e8; --accent: #1f6feb;
  --good: 34, 139, 94; --bad: #b3423a; --c0: #1f6feb; --c1: #d9822b; --c2: #238b5e; --c3: #8250df; --c4: #b3423a;
  --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --card: #1c2229; --ink: #e3e8ee; --faint: #95a1ae;
  --rule: #313a44; --good: 63, 185, 130; --bad: #ff8f87; --c0: #6ea8ff; --c1: #f0a860; --c2: #63c595; --c3: #b493f5;
  --c4: #ff8f87; --c5: #a5afba; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", "Noto Sans",
  sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 44px 0 10px; }
p.lead { color: var(--faint); margin: 0 0 22px; max-width: 78ch; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 10px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 12px; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: top; }
tr:last-child td, tr:last-child th { border-bottom: 0; }
thead th { color: var(--faint); font-weight: 600; font-size: 13px; vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
.faint { color: var(--faint); font-size: 12.5px; }
.error { color: var(--bad); }
.mode { color: var(--faint); font-weight: 400; }
ul.notes { color: var(--faint); font-size: 13.5px; padding-left: 18px; }
ul.notes li { margin: 2px 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 16px; }
figure.chart { margin: 0; padding: 12px 14px 6px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
figure.chart figcaption { font-weight: 600; font-size: 13.5px; }
svg text { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 0 0 12px; font-size: 13.5px; }
.legend svg { width: 22px; height: 10px; vertical-align: middle; margin-right: 7px; }
details { margin: 14px 0; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: 12.5px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 12px 14px; }
.nowrap { white-space: nowrap; }
code { font-size: 0.92em; overflow-wrap: anywhere; }
"""  # colours are variables; --c0 to --c5 are the palette of lines, --good is "r, g, b"


def document(title: str, sections: Iterable[str], style: str = "") -> str:
    """A whole page. title: plain text; sections: HTML, the empty ones left out; style: CSS of this page alone."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading and what is under it."""
    return f"<h2>{title}</h2>\n{body}"


def table(head: str, body: str, kind: str = "") -> str:
    """A table that scrolls sideways where it is wider than the page. kind: its CSS class."""
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="scroll">{opening}<thead>{head}</thead><tbody>{body}</tbody></table></div>'


def head_row(names: Iterable[str]) -> str:
    """The head of a table. names: plain text."""
    return "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>"


def notes(lines: Iterable[str]) -> str:
    """A quiet list. lines: plain text."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
