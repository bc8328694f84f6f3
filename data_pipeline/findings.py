"""What a page warns of and its figures at a glance: checks -> findings, each with the value and the remedy, as HTML."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from html import escape

from data_pipeline.html_page import notes, section

LISTED = 6  # examples named in a finding; the rest are counted
STYLE = """
.finding { background: var(--card); border: 1px solid var(--rule); border-left: 4px solid var(--c1); border-radius: 8px;
  padding: 12px 16px; margin: 0 0 10px; }
.finding b { display: block; } .finding p { margin: 3px 0 0; font-size: 13.5px; }
.finding p.where { color: var(--faint); overflow-wrap: anywhere; }
.fine { border-left-color: rgb(var(--good)); }
.facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; background: var(--rule);
  border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
.facts div { background: var(--card); padding: 10px 14px; overflow-wrap: anywhere; }
.facts b { display: block; font-size: 19px; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts span { color: var(--faint); font-size: 12.5px; }
td.number, th.number { text-align: right; white-space: nowrap; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 12px; }
.key.k0 { background: var(--c0); } .key.k1 { background: var(--c1); } .key:first-child { margin-left: 0; }
"""


@dataclass(frozen=True)
class Finding:
    """One warning."""

    says: str  # what, with the value
    where: tuple[str, ...]  # each place with its own value
    remedy: str


Findings = tuple[Finding, ...]


@dataclass(frozen=True)
class Check:
    """A name for what was looked at, and what was found."""

    name: str
    findings: Findings
    lacks: str = ""  # what it would need to be made, "" where it was made


def found(says: str, where: Sequence[str], remedy: str) -> Findings:
    """One finding of all places; none where there are none."""
    return (Finding(says, tuple(where), remedy),) if where else ()


def counted(things: Sized, name: str) -> str:
    """1 task, 2 tasks."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def listed(where: Sequence[str]) -> str:
    """The first few places and how many more there are."""
    more = len(where) - LISTED
    return "; ".join(where[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def warnings(checks: Sequence[Check]) -> str:
    """The section that opens a page: what was found, how many checks found nothing, what was not checked."""
    findings = [finding for check in checks for finding in check.findings]
    made = [check for check in checks if not check.lacks]
    fine = [check.name for check in made if not check.findings]
    left_out = [f"not checked: {check.name} ({check.lacks})" for check in checks if check.lacks]
    head = counted(findings, "warning") if findings else "No warnings"
    box = f'<div class="finding fine"><b>{len(fine)} of {len(made)} checks found nothing</b>'
    box += f'<p class="where">{escape("; ".join(fine))}</p></div>'
    return section(head, "".join(map(_finding, findings)) + box + (notes(left_out) if left_out else ""))


def _finding(finding: Finding) -> str:
    where = f'<p class="where">{escape(listed(finding.where))}</p>' if finding.where else ""
    return f'<div class="finding"><b>{escape(finding.says)}</b>{where}<p>{escape(finding.remedy)}</p></div>'


def facts(values: Sequence[tuple[str, str]]) -> str:
    """Large values with their names beneath. values: (value, name), plain text."""
    boxes = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in values)
    return f'<div class="facts">{boxes}</div>'
