"""The page of `nora-ecot inspect --annotations`: films with their segments and words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from data_pipeline.contract import Annotation
from data_pipeline.html_page import document, head_row, notes, section, table
from data_pipeline.reasoning_film import SIZE, Stretch, stretches

_STYLE = f"""video {{ width: 100%; max-width: {SIZE[0]}px; aspect-ratio: {SIZE[0]} / {SIZE[1]}; border-radius: 10px;
  border: 1px solid var(--rule); }}
table {{ min-width: 820px; }}
"""  # a narrow window scrolls the table sideways


@dataclass(frozen=True)
class Filmed:
    """One demonstration on the page."""

    instruction: str
    annotation: Annotation
    film: str  # file name beside the page


def render_reasoning_page(title: str, facts: Sequence[str], token_table: Sequence[str], demos: Sequence[Filmed]) -> str:
    """The whole page. All arguments are plain text; token_table may be empty."""
    tokens = section("Tokens", f"<pre>{escape(chr(10).join(token_table))}</pre>") if token_table else ""
    return document(title, [f"<h1>{escape(title)}</h1>", notes(facts), tokens, *map(_demo, demos)], _STYLE)


def _demo(demo: Filmed) -> str:
    film = f'<video controls preload="metadata" src="{escape(demo.film)}"></video>'
    first = next((s for s in demo.annotation.steps if s is not None), None)
    plan = f"<p>TASK: {escape(first.task)}<br>PLAN: {escape(first.plan)}</p>" if first else ""
    head = head_row(("steps", "subtask", "because", "moves", "because, at first"))
    body = "".join(_row(part, demo.annotation) for part in stretches(demo.annotation.steps))
    return section(f"{demo.annotation.episode}: {escape(demo.instruction)}", film + plan + table(head, body))


def _row(part: Stretch, annotation: Annotation) -> str:
    steps = f'<td class="nowrap">{part.start} to {part.stop - 1}</td>'
    if part.step is None:
        return f'<tr>{steps}<td class="faint" colspan="4">no reasoning</td></tr>'
    moves = dict.fromkeys(s.move for s in annotation.steps[part.start : part.stop] if s is not None)
    cells = (part.step.subtask, part.step.subtask_reasoning, "; ".join(moves), part.step.move_reasoning)
    return f"<tr>{steps}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
