"""Stage `report`: finished evaluations -> results.md, results.csv, results.html and the videos the page shows.

A pure function of its inputs' episodes.jsonl, summary.json, timings.jsonl and metrics.jsonl: the same files give the
same bytes.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.choices import STUDY, Subset
from configs.slices import ReportSlice
from data_pipeline.contract import StageContext
from data_pipeline.whole_files import write_text
from evaluation.page import render_page
from evaluation.published import PUBLISHED
from evaluation.records import VIDEOS, read_episodes, read_lines, read_summary, with_timings
from evaluation.robustness import HEAD, Robustness
from evaluation.story import Story, tell
from evaluation.table import AVERAGE, DASH, Comparison, Row, RunRecord, check_mergeable, columns_of, heading

METRICS = "metrics.jsonl"
MARKDOWN, CSV, HTML = "results.md", "results.csv", "results.html"
CSV_COLUMNS = (
    "phase",
    "label",
    "mode",
    "subset",
    "successes",
    "trials",
    "errors",
    "rate",
    "low95",
    "high95",
    "protocol",
    "fingerprint",
    "adapter",
    "run",
)


def run_report(config: ReportSlice, context: StageContext) -> list[str]:
    """Inputs `evaluate/<slug>` and, where the training is known, `train/<slug>` for every run."""
    records = [read_record(slug, context.inputs) for slug in config.runs]
    check_mergeable(records)
    story = tell(records, config.title)
    _copy_videos(records, context)
    write_text(context.work / MARKDOWN, to_markdown(story))
    write_text(context.work / CSV, to_csv(story))
    write_text(context.work / HTML, render_page(story))
    return [MARKDOWN, CSV, HTML, VIDEOS]


def read_record(slug: str, inputs: Mapping[str, Path]) -> RunRecord:
    """One run from its folders. Raises ConfigError where its rows are not those that its summary describes."""
    folder = inputs[f"evaluate/{slug}"]
    summary = read_summary(folder)
    episodes = tuple(with_timings(folder, read_episodes(folder, summary)))
    train = inputs.get(f"train/{slug}")
    metrics = train / METRICS if train is not None else None
    losses = tuple(read_lines(metrics)) if metrics is not None and metrics.is_file() else ()
    return RunRecord(slug, Subset(summary["subset"]), summary, episodes, losses)


def to_csv(story: Story) -> str:
    """One line per cell; empty cells have no line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in story.rows:
        for column, cell in row.cells.items():
            record = next((r for r in story.records if r.phase == row.phase and r.subset.value == column), None)
            known = record.summary if record is not None else {}
            numbers = [f"{value:.6f}" for value in (cell.rate, cell.interval.low, cell.interval.high)]
            identity = [known.get("adapter", ""), known.get("run", "")]
            writer.writerow(
                [row.phase, row.label, row.mode, column, cell.successes, cell.trials, cell.errors]
                + (numbers if cell.trials else ["", "", ""])
                + [story.protocol_name, story.fingerprint_digest, *identity]
            )
    return out.getvalue()


def to_markdown(story: Story) -> str:
    """The table, what it stands on, and comparisons."""
    lines = [f"# {story.title}", "", *_markdown_table(story.rows), ""]
    lines += [f"- {note}" for note in story.notes]
    if story.robustness:
        lines += ["", "## Robustness: perturbed beside plain episodes", "", *_markdown_robustness(story.robustness)]
    lines += ["", "Adapters:", "", *(f"- `{slug}`: `{digest}`" for slug, digest in story.adapters), ""]
    if story.comparisons:
        lines += ["## Paired comparisons", "", *_markdown_comparisons(story.comparisons), ""]
    lines += ["## Published numbers (not measured here)", "", *_markdown_published(), ""]
    return "\n".join(lines)


def _markdown_table(rows: Sequence[Row]) -> list[str]:
    columns = [column.value for column in columns_of(rows)]
    head = ["", "mode", *map(heading, columns), "Average"]
    lines = [_markdown_line(head), _markdown_line(["---"] * len(head))]
    for row in rows:
        cells = [row.cells[name].text() if name in row.cells else DASH for name in (*columns, AVERAGE)]
        lines.append(_markdown_line([row.label, row.mode, *cells]))
    return lines


def _markdown_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    head = [
        "mode",
        "first",
        "second",
        "episodes",
        "only first",
        "only second",
        "difference [95 %]",
        "p (exact)",
        "p (Holm)",
    ]
    lines = [_markdown_line(head), _markdown_line(["---"] * len(head))]
    return lines + [_markdown_line(comparison_cells(c)) for c in comparisons]


def comparison_cells(c: Comparison) -> list[str]:
    """One comparison as texts, for every format."""
    low, high = c.difference.interval.low, c.difference.interval.high
    return [
        c.first.mode,
        c.first.label,
        c.second.label,
        str(c.counts.pairs),
        str(c.counts.only_a),
        str(c.counts.only_b),
        f"{100 * c.difference.value:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]",
        f"{c.p_value:.3f}",
        f"{c.adjusted:.3f}",
    ]


def _markdown_robustness(entries: Sequence[Robustness]) -> list[str]:
    return [_markdown_line(HEAD), _markdown_line(["---"] * len(HEAD)), *(_markdown_line(e.cells()) for e in entries)]


def _markdown_published() -> list[str]:
    head = ["model", *(heading(c.value) for c in STUDY), "Average", "source"]
    lines = [_markdown_line(head), _markdown_line(["---"] * len(head))]
    for p in PUBLISHED:
        rates = [f"{rate:.1f}" for rate in (p.spatial, p.object, p.goal, p.long, p.average)]
        lines.append(_markdown_line([p.name, *rates, p.source]))
    return lines


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _copy_videos(records: Sequence[RunRecord], context: StageContext) -> None:
    for record in records:
        target = context.work / VIDEOS / record.slug
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in record.summary["videos"]:
            shutil.copyfile(context.inputs[f"evaluate/{record.slug}"] / VIDEOS / name, target / name)
