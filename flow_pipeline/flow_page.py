"""The page of `nora-ecot inspect --flow`: flow, what its tokens say, and how far apart they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from data_pipeline import findings
from data_pipeline.findings import Check, facts, warnings
from data_pipeline.html_page import document, notes, section, table
from data_pipeline.image_frame import policy_image
from flow_pipeline import flow_charts
from flow_pipeline.flow_charts import code_figure, code_grid, length_figure, photo, picture, scale_figure, wheel_figure
from flow_pipeline.flow_checks import Tallies, total
from flow_pipeline.flow_colors import error_colors, flow_colors
from flow_pipeline.flow_facts import EDGES_PX, Tally, errors, resized

PICTURE_PX = 256  # of the embedded frames, at most
_STYLE = """
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 24px; } .two figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; color: var(--faint); margin-bottom: 6px; } figcaption b { color: var(--ink); }
.legends { display: flex; flex-wrap: wrap; gap: 16px 40px; align-items: center; } .legends p { max-width: 52ch; }
.demo { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px;
  margin: 0 0 22px; } .demo h3 { font-size: 16px; margin: 0 0 2px; }
.demo video { width: 100%; border-radius: 8px; border: 1px solid var(--rule); margin: 8px 0 4px; display: block; }
.step { display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px; padding-top: 12px; }
.step figure { margin: 0; min-width: 0; } .step figcaption { font-size: 12px; line-height: 1.3; margin: 0 0 3px; }
.step img, .step svg { width: 100%; aspect-ratio: 1; display: block; border-radius: 4px;
  outline: 1px solid var(--rule); }
table.tasks td:first-child { min-width: 210px; }
@media (max-width: 900px) { .step { grid-template-columns: repeat(3, 1fr); } .two { grid-template-columns: 1fr; }
  .facts { grid-template-columns: repeat(2, 1fr); } main { padding: 20px 14px 60px; } .demo { padding: 12px; } }
"""


@dataclass(frozen=True)
class Scales:
    """Ends of the colour scales of a page and its films, pixels at 256 px."""

    longest_px: float
    error_px: float


@dataclass(frozen=True)
class ShownStep:
    """One step of the strip. Images uint8 [H, W, 3] in ImageFrame.GL; flow in ROT180, pixels at 256 px."""

    step: int
    ahead: int  # steps to the later image
    image: np.ndarray
    later: np.ndarray
    flow: np.ndarray  # float32 [C, C, 2]
    decoded: np.ndarray  # float32 [D, D, 2]
    codes: np.ndarray  # int [cells * cells]


@dataclass(frozen=True)
class ShownDemo:
    """One demonstration on the page."""

    name: str
    instruction: str
    steps: Sequence[ShownStep]
    film: str = ""  # file name beside the page; "" for none
    poster: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))  # a picture of the film


@dataclass(frozen=True)
class FlowPage:
    """What the page says. All text is plain."""

    title: str
    lead: str
    settings: Sequence[tuple[str, str]]
    fitted: Sequence[str]  # how well a fitted tokenizer does, a line per subset that it was fitted on; () of others
    tallies: Tallies
    checks: Sequence[Check]
    demos: Sequence[ShownDemo]
    scales: Scales


def render_flow_page(page: FlowPage) -> str:
    """The whole page."""
    sections = (
        f'<h1>{escape(page.title)}</h1><p class="lead">{escape(page.lead)}</p>',
        warnings(page.checks),
        _numbers(total(page.tallies)),
        _settings(page.settings),
        _fitted(page.fitted),
        _legends(page.scales),
        _figures(total(page.tallies), page.scales),
        _tasks(page.tallies),
        section("Step by step", "".join(_demo(demo, page.scales) for demo in page.demos)),
    )
    return document(page.title, sections, flow_charts.STYLE + findings.STYLE + _STYLE)


def _numbers(whole: Tally) -> str:
    cells, used = int(whole.codes.sum()) // whole.steps, int((whole.codes > 0).sum())
    values = (
        (f"{whole.epe_moving:.2f} px", f"mean error of moving cells; of no motion {whole.zero_moving:.2f}"),
        (f"{whole.epe_all:.2f} px", f"mean error of all cells; of no motion {whole.zero_all:.2f}"),
        (f"{whole.bits_per_code * cells:.0f} bits", f"per frame, in {cells} codes"),
        (f"{used} of {len(whole.codes)}", "codes used"),
        (_percent(whole.codes[0], whole.codes.sum()), "of the codes are static"),
        (_percent(whole.moving, whole.cells), "of the cells move"),
        (_percent(whole.beyond, whole.moving), "of these move further than any code says"),
        (f"{whole.short} of {whole.steps}", "steps without tokens: less than half the horizon is left"),
    )
    return section("In numbers", facts(values))


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td><code>{escape(text)}</code></td></tr>" for name, text in settings)
    return section("Settings", table("", rows))


def _fitted(lines: Sequence[str]) -> str:
    return section("The fitted tokenizer, by subset", notes(lines)) if lines else ""


def _legends(scales: Scales) -> str:
    text = (
        "Flow is how far a point moves from one frame to the later one, in pixels of a 256 x 256 image, in the "
        "directions of the picture as the policy gets it (turned by 180 degrees). White stands still; what is longer "
        "than the rim is darker. Pictures of flow show what the tokenizer reads, means over cells, not single pixels."
    )
    return section(
        "Colours",
        f'<div class="legends">{wheel_figure(scales.longest_px)}<div><p class="lead">{text}</p>'
        f'<p class="faint">Error, pixels</p>{scale_figure(scales.error_px)}</div></div>',
    )


def _figures(whole: Tally, scales: Scales) -> str:
    lengths = (
        f'<b>How far moving cells move</b>, at least {EDGES_PX[0]:g} px <span class="key k0"></span>flow '
        '<span class="key k1"></span>what is decoded there'
    )
    codes = (
        f"<b>How often each code is used</b>, most used first, in the colour of what it decodes to; the static code, "
        f"{_percent(whole.codes[0], whole.codes.sum())}, is left out"
    )
    chart = code_figure(whole.codes, whole.mean_code_flow_px, scales.longest_px)
    return section(
        "Lengths and codes",
        f'<div class="two"><figure><figcaption>{lengths}</figcaption>{length_figure(whole.lengths)}</figure>'
        f"<figure><figcaption>{codes}</figcaption>{chart}</figure></div>",
    )


def _tasks(tallies: Tallies) -> str:
    names = (
        "demos",
        "steps",
        "without tokens",
        "cells that move",
        "static codes",
        "moving",
        "of no motion",
        "all",
        "of no motion",
    )
    numbers = "".join(f'<th class="number">{name}</th>' for name in names)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="number">{cell}</td>' for cell in _task_cells(one))
        + "</tr>"
        for name, one in tallies.items()
    )
    note = (
        '<p class="lead">The last four columns are mean errors in pixels: of cells that move and of all, each beside '
        "what predicting no motion would have.</p>"
    )
    return section("Tasks", note + table(f"<tr><th></th>{numbers}</tr>", rows, "tasks"))


def _task_cells(one: Tally) -> tuple[str, ...]:
    return (
        str(one.episodes),
        str(one.steps),
        _percent(one.short, one.steps),
        _percent(one.moving, one.cells),
        _percent(one.codes[0], one.codes.sum()),
        *(f"{px:.2f}" for px in (one.epe_moving, one.zero_moving, one.epe_all, one.zero_all)),
    )


def _demo(demo: ShownDemo, scales: Scales) -> str:
    film = ""
    if demo.film:
        film = f'<video controls preload="none" poster="{photo(demo.poster)}" src="{escape(demo.film)}"></video>'
    steps = "".join(_step(step, scales) for step in demo.steps)
    return (
        f'<article class="demo"><h3>{escape(demo.instruction)}</h3>'
        f'<p class="faint">{escape(demo.name)}</p>{film}{steps}</article>'
    )


def _step(step: ShownStep, scales: Scales) -> str:
    error = errors(step.flow[None], step.decoded[None])[0]
    cells = round(len(step.codes) ** 0.5)
    moving = int((step.codes > 0).sum())
    figures = (
        (f"<b>frame {step.step}</b>", _frame(step.image)),
        (f"frame {step.step + step.ahead}", _frame(step.later)),
        (f"flow, up to {np.linalg.norm(step.flow, axis=-1).max():.0f} px", _cells(step.flow, scales)),
        ("decoded tokens", _cells(step.decoded, scales)),
        (
            f"error {error.mean():.1f} px, up to {error.max():.0f}",
            f'<img class="cells" alt="error" src="{picture(error_colors(error, scales.error_px))}">',
        ),
        (
            f"tokens, {moving} of {len(step.codes)} move",
            code_grid(step.codes, resized(step.decoded[None], cells)[0], scales.longest_px),
        ),
    )
    return (
        '<div class="step">'
        + "".join(f"<figure><figcaption>{caption}</figcaption>{body}</figure>" for caption, body in figures)
        + "</div>"
    )


def _frame(image: np.ndarray) -> str:
    return f'<img alt="frame" src="{photo(policy_image(image, min(PICTURE_PX, len(image))))}">'


def _cells(flow: np.ndarray, scales: Scales) -> str:
    return f'<img class="cells" alt="flow" src="{picture(flow_colors(flow, scales.longest_px))}">'


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
