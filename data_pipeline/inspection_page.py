"""An Inspection as one HTML page that needs nothing beside it: warnings first, then the whole, then task by task.

One function per view; what comes from files passes through `html.escape`.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np

from data_pipeline import findings
from data_pipeline.action_histograms import action_figure
from data_pipeline.action_stats import COLUMNS, ActionStatistics
from data_pipeline.contact_sheet import jpeg, still_lines, typical_demo
from data_pipeline.contract import AGENTVIEW, CAMERAS, WRIST, digest
from data_pipeline.findings import Check, facts, warnings
from data_pipeline.html_page import document, notes, section, table
from data_pipeline.image_checks import MOVING_M, moved
from data_pipeline.inspection import DemoFacts, Inspection, TaskFacts, seconds
from data_pipeline.inspection_charts import (
    STYLE,
    Axes,
    gripper_figure,
    length_axis,
    length_strip,
    path_figure,
    shared_axes,
)
from data_pipeline.libero_utils import SUITE_OF

DASH = "–"
_PAGE_STYLE = """
.rows td { vertical-align: middle; padding-top: 6px; padding-bottom: 6px; } .rows td:first-child { min-width: 330px; }
.rows a { color: var(--accent); text-decoration: none; display: inline-block; min-width: 20px; }
svg.strip { width: 230px; display: block; }
.task { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px; margin: 0 0
  22px; }
.task h3 { font-size: 16px; margin: 0; } .task > p { margin: 0 0 12px; }
.stills { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin-bottom: 16px; }
.still { display: grid; grid-template-columns: 36% 1fr; gap: 6px 9px; font-size: 12.5px; line-height: 1.4;
  color: var(--faint); }
.still img { width: 100%; display: block; border-radius: 4px; } .still img:first-child { grid-column: 1 / 3; }
.still b { display: block; color: var(--ink); font-weight: 600; }
.three { display: grid; grid-template-columns: 4fr 3fr 3fr; gap: 24px; margin-bottom: 14px; }
figure.panel { margin: 0; } figure.panel figcaption { font-weight: 600; font-size: 13px; margin-bottom: 4px; }
figure.panel figcaption span { color: var(--faint); font-weight: 400; }
svg.panels { width: 100%; display: block; overflow: visible; } .rest { fill-opacity: 0.3; }
.words td { padding-top: 5px; padding-bottom: 5px; } .words td:last-child { width: 90%; }
.words b { font-weight: 650; color: var(--accent); }
@media (max-width: 900px) { figure.panel { max-width: 440px; }
  .three { grid-template-columns: 1fr; } .stills { grid-template-columns: repeat(3, 1fr); } }
"""


def render_page(inspection: Inspection, checks: Sequence[Check]) -> str:
    """The whole page. A further view is one more function and one more line."""
    axes = shared_axes(inspection)
    title = f"LIBERO-{inspection.subset.value.capitalize()}: the demonstrations"
    sections = (
        f'<h1>{title}</h1><p class="lead">{escape(inspection.known.origin)}</p>',
        warnings(checks),
        _summary(inspection),
        _overview(inspection, axes),
        _language(inspection),
        _actions(inspection, axes),
        _pixels(inspection),
        _tasks(inspection, axes),
        _provenance(inspection),
    )
    return document(title, sections, STYLE + findings.STYLE + _PAGE_STYLE)


# ------------------------------------------------------------------ the whole


def _summary(inspection: Inspection) -> str:
    demos, prints = inspection.demos, map(dict, inspection.fingerprints)
    split = Counter(demo.split for demo in demos)
    parts = f"{split['train']} / {split['test']}" if inspection.known.split else DASH
    values = (
        (str(len(demos)), f"demonstrations of {len(inspection.tasks)} tasks"),
        (f"{inspection.num_steps:,}".replace(",", " "), "steps"),
        (duration(inspection.num_steps), "of robot time at 20 Hz"),
        (parts, "train / test"),
        (" and ".join(inspection.resolutions), "pixels, two cameras"),
        (_each(inspection, "assets"), "assets"),
        (_each(inspection, "look"), "look"),
        (" and ".join(map(digest, prints)) or DASH, "environment fingerprint"),
    )
    return section("In numbers", facts(values))


def _each(inspection: Inspection, key: str) -> str:
    """Every value of one key of the environments' fingerprints."""
    return " and ".join(sorted({str(one.get(key, DASH)) for one in inspection.fingerprints})) or "not recorded"


def duration(steps: int) -> str:
    """9 min 56 s."""
    minutes, rest = divmod(round(seconds(steps)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _overview(inspection: Inspection, axes: Axes) -> str:
    number = '<th class="number">{}</th>'
    head = "<th></th>" + "".join(map(number.format, ("demos", "train / test", "mean length")))
    head += f"<th>lengths, s{length_axis(axes)}</th>"
    head += "".join(map(number.format, ("succeed", "no‑ops cut", "dropped", "nearest evaluation start")))
    body = "".join(_overview_row(task, axes) for task in inspection.tasks)
    note = (
        '<p class="lead"><span class="key k0"></span>train <span class="key k1"></span>test. A dot per demonstration, '
        "a line at the median. The nearest evaluation start is how far the movable object that differs most lies from "
        "its place in the most similar of the official initial states.</p>"
    )
    return section("Tasks", note + table(f"<tr>{head}</tr>", body, "rows"))


def _overview_row(task: TaskFacts, axes: Axes) -> str:
    split = Counter(demo.split for demo in task.demos)
    lengths = task.lengths * seconds(1)
    starts = [demo.start_distance_m for demo in task.demos if demo.start_distance_m is not None]
    cells = (
        str(len(task.demos)),
        f"{split['train']} / {split['test']}" if split["train"] or split["test"] else DASH,
        f'{lengths.mean():.1f} s<br><span class="faint">{lengths.min():.1f} – {lengths.max():.1f}</span>',
    )
    rest = (
        str(sum(demo.success for demo in task.demos)),
        DASH if task.noops_removed is None else str(task.noops_removed),
        str(len(task.dropped)) if task.noops_removed is not None else DASH,
        f"{100 * min(starts):.2f} cm" if starts else DASH,
    )
    number = '<td class="number">{}</td>'
    return (
        f'<tr><td><a href="#task{task.task_id}">{task.task_id}</a> {escape(task.instruction)}</td>'
        + "".join(number.format(cell) for cell in cells)
        + f"<td>{length_strip(task.demos, axes)}</td>"
        + "".join(number.format(cell) for cell in rest)
        + "</tr>"
    )


def _language(inspection: Inspection) -> str:
    used = Counter(word for task in inspection.tasks for word in set(task.instruction.split()))
    total = len(used)
    body = "".join(_sentence(task, used) for task in inspection.tasks)
    note = (
        f'<p class="lead">{total} different words in {len(inspection.tasks)} instructions. Words that no other task '
        "has are blue: they are all that tells the policy which task it is.</p>"
    )
    head = "<tr><th>task</th><th>words</th><th>instruction</th></tr>"
    return section("Language", note + table(head, body, "words"))


def _sentence(task: TaskFacts, used: Counter[str]) -> str:
    words = [f"<b>{escape(word)}</b>" if used[word] == 1 else escape(word) for word in task.instruction.split()]
    return f"<tr><td>{task.task_id}</td><td>{len(words)}</td><td>{' '.join(words)}</td></tr>"


def _actions(inspection: Inspection, axes: Axes) -> str:
    statistics = inspection.known.statistics
    text = (
        "What is commanded per step, all tasks together; heights are square roots of counts, so that rare motions "
        "show. One action unit is 5 cm or 0.5 rad."
    )
    if statistics is not None:
        text += (
            f" Beneath: what the policy is trained on, normalised by {_bounds_in_words(statistics)} of the training "
            "demonstrations (action.normalization, action.half_range_floor). Dashed lines are what becomes -1 and 1; "
            "orange is clipped."
        )
    figure = action_figure(inspection.actions, statistics, axes)
    return section("Actions", f'<p class="lead">{text}</p><div class="task">{figure}</div>')


def _bounds_in_words(statistics: ActionStatistics) -> str:
    return " and ".join(COLUMNS[statistics.mode])


def _pixels(inspection: Inspection) -> str:
    head = '<tr><th></th><th class="number">' + '</th><th class="number">'.join(
        (
            "agentview brightness",
            "range",
            "wrist brightness",
            "range",
            "one-coloured frames",
            "repeated frames",
            "repeated while moving",
        )
    )
    body = "".join(
        f"<tr><td>{task.task_id} &ensp;{escape(task.instruction)}</td>"
        + "".join(f'<td class="number">{cell}</td>' for cell in _pixel_cells(task))
        + "</tr>"
        for task in inspection.tasks
    )
    note = (
        '<p class="lead">Brightness: mean of 0 to 255 over the first, middle and last frame of each demonstration. '
        "Repeated: equal to the frame before, to the bit, in either camera, among all frames; moving: while the hand "
        f"moved more than {1000 * MOVING_M:g} mm.</p>"
    )
    return section("Pixels", note + table(head + "</th></tr>", body, "rows"))


def _pixel_cells(task: TaskFacts) -> list[str]:
    cells: list[str] = []
    for camera in (AGENTVIEW, WRIST):
        values = np.array([demo.pixels[camera].brightness for demo in task.demos])
        cells += [f"{values.mean():.0f}", f"{values.min():.0f} – {values.max():.0f}"]
    scans = [(demo, demo.pixels[camera].scan) for demo in task.demos for camera in CAMERAS]
    frozen = sum(moved(demo, step) > MOVING_M for demo, scan in scans for step in scan.repeated)
    flat, repeated = (sum(len(getattr(scan, name)) for _, scan in scans) for name in ("flat", "repeated"))
    return [*cells, str(flat), str(repeated), str(frozen)]


# ------------------------------------------------------------------ task by task


def _tasks(inspection: Inspection, axes: Axes) -> str:
    key = (
        '<p class="lead"><span class="key k0"></span>gripper open <span class="key k1"></span>gripper closed. '
        "The pictures are those of one demonstration of median length, as the policy gets them: agentview, and the "
        "wrist camera small. Scales are the same for all tasks.</p>"
    )
    return section("Task by task", key + "".join(_task(task, inspection, axes) for task in inspection.tasks))


def _task(task: TaskFacts, inspection: Inspection, axes: Axes) -> str:
    lengths = task.lengths
    typical = typical_demo(task)
    facts = (
        f"{len(task.demos)} demonstrations of {lengths.min()} to {lengths.max()} steps; the hand's paths differ by "
        f"{100 * task.spread_m:.1f} cm (root mean square from their mean); pictures of {typical.id}"
    )
    stills = "".join(_still(typical, task, column) for column in range(len(task.stills)))
    figures = (
        _panel("Gripper", "time, shortest first", gripper_figure(task.demos, axes)),
        _panel("From above", "x forward, y left", path_figure(task.demos, axes, 1, 0)),
        _panel("From the side", "x forward, z up", path_figure(task.demos, axes, 0, 2)),
    )
    actions = action_figure(task.actions, inspection.known.statistics, axes)
    return (
        f'<article class="task" id="task{task.task_id}"><h3>{task.task_id} &ensp;{escape(task.instruction)}</h3>'
        f'<p class="faint">{facts}</p><div class="stills">{stills}</div>'
        f'<div class="three">{"".join(figures)}</div>{actions}</article>'
    )


def _still(demo: DemoFacts, task: TaskFacts, column: int) -> str:
    still = task.stills[column]
    share, time, gripper = still_lines(demo, still, column)
    return (
        f'<div class="still">{_image(still.images[AGENTVIEW], 192, f"agentview at {share}")}'
        f"{_image(still.images[WRIST], 84, f'wrist camera at {share}')}"
        f"<div><b>{share}</b>{time}<br>{gripper}</div></div>"
    )


def _image(image: np.ndarray, size: int, alt: str) -> str:
    data = base64.b64encode(jpeg(image, size)).decode()
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'


def _panel(name: str, how: str, figure: str) -> str:
    return f'<figure class="panel"><figcaption>{name} <span>{how}</span></figcaption>{figure}</figure>'


# ------------------------------------------------------------------ where it comes from


def _provenance(inspection: Inspection) -> str:
    dropped = [
        f"task {task.task_id}, {demo}: dropped, because {why}"
        for task in inspection.tasks
        for demo, why in task.dropped
    ]
    failed = sum(task.failed_attempts or 0 for task in inspection.tasks)
    lines = [
        f"Data set {SUITE_OF[inspection.subset]}; digest of ids and actions: {inspection.digest}",
        *inspection.known.remarks,
        *([f"The expert failed {failed} times before these succeeded; failures are not kept"] if failed else []),
    ]
    prints = "".join(
        f"<pre>{escape(json.dumps(dict(one), indent=1, sort_keys=True, ensure_ascii=False))}</pre>"
        for one in inspection.fingerprints
    )
    body = notes(lines)
    if dropped:
        body += f"<details><summary>{len(dropped)} dropped demonstrations</summary>{notes(dropped)}</details>"
    if prints:
        body += f"<details open><summary>Environment that drew the images</summary>{prints}</details>"
    return section("Where it comes from", body)
