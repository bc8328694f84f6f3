"""The report as one HTML page: no scripts, no fonts, no network; videos lie beside it in videos/.

Everything that comes from a model, a task or a file passes through `html.escape`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from configs.choices import STUDY, Subset
from data_pipeline.html_page import document, head_row, notes, section, table
from evaluation import endings, speed
from evaluation.figures import loss_figure
from evaluation.published import PUBLISHED
from evaluation.robustness import HEAD, Robustness
from evaluation.story import FIGURES, Decoding, Scene, Story
from evaluation.table import AVERAGE, DASH, Cell, Comparison, Row, columns_of, heading, percent
from evaluation.thoughts import parts

SUITES = {subset.value: heading(subset.value) for subset in Subset}

_STYLE = """
td.cell b { font-size: 17px; font-weight: 650; }
td.cell small { display: block; white-space: nowrap; color: var(--faint); font-size: 12.5px; }
.heat td { text-align: center; padding: 6px 4px; min-width: 46px; font-size: 13px; }
.heat thead th { text-align: center; padding: 6px 4px; }
.scene { margin: 0 0 26px; }
.scene h3 { font-size: 15px; margin: 0 0 8px; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(370px, 1fr)); gap: 16px; }
.clip { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
.clip video { display: block; width: 100%; background: #000; }
.clip div { padding: 10px 14px 12px; }
.clip p { margin: 6px 0 0; font-size: 13px; overflow-wrap: anywhere; }
.thought b { font-size: 10.5px; letter-spacing: 0.03em; color: var(--faint); }
.badge { float: right; font-size: 12px; padding: 1px 9px; border-radius: 20px; border: 1px solid var(--rule); }
.badge.success { color: rgb(var(--good)); border-color: rgb(var(--good)); }
.badge.error { color: var(--bad); border-color: var(--bad); }
"""


def render_page(story: Story) -> str:
    """The whole page."""
    title = escape(story.title)
    sections = (
        f"<h1>{title}</h1>",
        '<p class="lead">Success on LIBERO. Rows are phases and decoding modes, columns are suites.</p>',
        _results(story.rows),
        notes(story.notes),
        _robustness(story.robustness),
        _comparisons(story.comparisons),
        _heat(story),
        endings.endings_section(story.endings),
        _losses(story),
        speed.speed_section(story.speeds),
        _decoding(story.decoding),
        _rollouts(story.scenes),
        _published(),
        _provenance(story),
    )
    return document(story.title, sections, _STYLE + endings.STYLE + speed.STYLE)


def _results(rows: Sequence[Row]) -> str:
    columns = (*columns_of(rows), AVERAGE)
    head = head_row(("", *(SUITES.get(c, c.capitalize()) for c in columns)))
    body = "".join(
        f"<tr>{_row_name(row)}" + "".join(_cell(row.cells.get(column)) for column in columns) + "</tr>" for row in rows
    )
    return table(head, body)


def _row_name(row: Row | Decoding) -> str:
    return f"<th>{escape(row.label)} {_mode(row.mode)}</th>"


def _mode(text: str) -> str:
    return f'<span class="mode">{escape(text)}</span>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return f'<td class="cell faint">{DASH}</td>'
    broken = ""
    if cell.errors:
        plural = "" if cell.errors == 1 else "s"
        broken = (
            f'<small class="error">n={cell.trials}/{cell.trials + cell.errors} ({cell.errors} error{plural})</small>'
        )
    if not cell.trials:
        return f'<td class="cell">{DASH}{broken}</td>'
    low, high = percent(cell.interval.low), percent(cell.interval.high)
    return (
        f'<td class="cell"{_shade(cell)}><b>{percent(cell.rate)} %</b> {cell.successes}/{cell.trials}'
        f"<small>[{low}, {high}]</small>{broken}</td>"
    )


def _shade(cell: Cell) -> str:
    return f' style="background: rgba(var(--good), {0.32 * cell.rate:.3f})"' if cell.trials else ""


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    names = ("", "episodes in common", "only first", "only second", "difference [95 %]", "p, exact McNemar", "p, Holm")
    body = "".join(
        f"<tr><th>{escape(c.first.label)} → {escape(c.second.label)} {_mode(c.first.mode)}</th>"
        f"<td>{c.counts.pairs}</td><td>{c.counts.only_a}</td><td>{c.counts.only_b}</td>"
        f'<td class="nowrap">{_points(c)}</td><td>{c.p_value:.3f}</td><td>{c.adjusted:.3f}</td></tr>'
        for c in comparisons
    )
    return section("Paired comparisons, suites pooled", table(head_row(names), body))


def _points(c: Comparison) -> str:
    low, high = c.difference.interval.low, c.difference.interval.high
    return f"{100 * c.difference.value:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]"


def _robustness(entries: Sequence[Robustness]) -> str:
    if not entries:
        return ""
    rows = [[escape(cell) for cell in entry.cells()] for entry in entries]
    body = "".join(
        f"<tr><th>{label} {_mode(mode)}</th>" + "".join(f'<td class="nowrap">{cell}</td>' for cell in cells) + "</tr>"
        for label, mode, *cells in rows
    )
    return section("Robustness: perturbed beside plain episodes", table(head_row(("", *HEAD[2:])), body))


def _heat(story: Story) -> str:
    if not story.tasks:
        return ""
    spans = [(name, sum(subset == name for subset, _, _ in story.tasks)) for name in SUITES]
    groups = "".join(f'<th colspan="{count}">{SUITES[name]}</th>' for name, count in spans if count)
    numbers = "".join(f'<th title="{escape(name)}">{task}</th>' for _, task, name in story.tasks)
    body = "".join(
        f"<tr>{_row_name(row)}"
        + "".join(_heat_cell(cells.get((subset, task))) for subset, task, _ in story.tasks)
        + "</tr>"
        for row, cells in story.heat
    )
    names = "".join(
        f"<li>{SUITES[subset]} {task}: {escape(name.replace('_', ' '))}</li>" for subset, task, name in story.tasks
    )
    head = f"<tr><th></th>{groups}</tr><tr><th></th>{numbers}</tr>"
    listed = f'<details><summary>Task names</summary><ul class="notes">{names}</ul></details>'
    return section("Tasks", table(head, body, "heat") + listed)


def _heat_cell(cell: Cell | None) -> str:
    if cell is None or not cell.trials:
        return f'<td class="faint">{DASH}</td>'
    return f"<td{_shade(cell)}>{cell.successes}/{cell.trials}</td>"


def _losses(story: Story) -> str:
    if not story.curves:
        return ""
    labels = list(dict.fromkeys(curve.label for curve in story.curves))
    keys = "".join(
        f'<span><svg viewBox="0 0 22 10"><line class="line c{i % 6}" x1="1" x2="21" y1="5" y2="5"/></svg>'
        f"{escape(label)}</span>"
        for i, label in enumerate(labels)
    )
    names = sorted({name for curve in story.curves for name in curve.series if name != "loss"})
    figures = "".join(
        loss_figure([c for c in story.curves if c.subset == column.value], name, labels, _loss_title(column, name))
        for name in names
        for column in STUDY
    )
    return section("Training", f'<div class="legend">{keys}</div><div class="charts">{figures}</div>')


def _loss_title(subset: Subset, name: str) -> str:
    return f"{SUITES[subset.value]}: {FIGURES.get(name, name.removeprefix('loss_') + ' tokens')}"


def _decoding(rows: Sequence[Decoding]) -> str:
    names = ("", "queries", "tokens per query", "decodable without constraint", "reasonings cut", "why not successful")
    body = "".join(
        f"<tr>{_row_name(r)}<td>{r.queries}</td>{_tokens(r)}<td>{r.forced}</td><td>{_reasons(r)}</td></tr>"
        for r in rows
    )
    return section("Decoding", table(head_row(names), body))


def _tokens(row: Decoding) -> str:
    """Two cells; a control that writes nothing has dashes."""
    if not row.tokens_per_query:
        return f"<td>{DASH}</td>" * 2
    return f"<td>{row.tokens_per_query:.1f}</td><td>{100 * row.free_decodable:.0f} %</td>"


def _reasons(row: Decoding) -> str:
    return escape("; ".join(f"{reason}: {count}" for reason, count in row.reasons)) or DASH


def _rollouts(scenes: Sequence[Scene]) -> str:
    if not scenes:
        return ""
    return section("Rollouts", "".join(_scene(scene) for scene in scenes))


def _scene(scene: Scene) -> str:
    name = f"{SUITES[scene.subset]}: {escape(scene.instruction)}"
    clips = "".join(
        f'<article class="clip"><video controls preload="metadata" src="{escape(clip.file)}"></video><div>'
        f'<span class="badge {clip.episode.outcome}">{clip.episode.outcome}, {clip.episode.steps} steps</span>'
        f"<b>{escape(clip.label)}</b> {_mode(clip.mode)}" + _thought(clip.episode.reasoning) + "</div></article>"
        for clip in scene.clips
    )
    head = f"<h3>{name} {_mode(f'init state {scene.init_state}')}</h3>"
    return f'<div class="scene">{head}<div class="clips">{clips}</div></div>'


def _thought(text: str) -> str:
    """The chain of thought, one tag per line."""
    lines = [f"<b>{escape(tag)}</b> {escape(body)}<br>" for tag, body in parts(text)]
    return f'<p class="thought">{"".join(lines)}</p>' if lines else ""


def _published() -> str:
    names = ("", *(SUITES[s.value] for s in STUDY), "Average", "source")
    body = "".join(
        f"<tr><th>{escape(p.name)}</th>"
        + "".join(f"<td>{rate:.1f}</td>" for rate in (p.spatial, p.object, p.goal, p.long, p.average))
        + f"<td>{escape(p.source)}</td></tr>"
        for p in PUBLISHED
    )
    note = '<p class="faint">Percent, as their authors published them, on other versions of the environment.</p>'
    return section("Published numbers, not measured here", note + table(head_row(names), body))


def _provenance(story: Story) -> str:
    adapters = "".join(f"<li>{escape(slug)}: <code>{escape(value)}</code></li>" for slug, value in story.adapters)
    fingerprint = escape(json.dumps(story.fingerprint, indent=1, sort_keys=True, ensure_ascii=False))
    return section(
        "Where the numbers come from",
        f"<details open><summary>Environment</summary><pre>{fingerprint}</pre></details>"
        f'<details><summary>Adapters</summary><ul class="notes">{adapters}</ul></details>',
    )
