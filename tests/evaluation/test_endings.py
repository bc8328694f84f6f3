"""The bars of the report page: one per row, every number a text."""

import re

from configs.choices import Mode, Subset
from evaluation.endings import STYLE, Ending, endings, endings_section
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome
from evaluation.failures import Category
from evaluation.report import read_record
from evaluation.table import make_rows
from tests.evaluation.test_failures import placing
from tests.helpers.evaluations import write_evaluation


def failure(number, milestones, reason="step limit"):
    key = EpisodeKey(0, number, 0, Mode.NO_THINK.value)
    return EpisodeResult(key, "task_0", "do it", Outcome.FAILURE, 80, reason, milestones=milestones)


def rows_of(root, subset, results):
    folder = root / "plain" / subset.value
    write_evaluation(folder, "plain", subset, results)
    records = [read_record(f"plain/{subset.value}", {f"evaluate/plain/{subset.value}": folder})]
    return endings(records, make_rows(records))


def test_a_row_counts_its_episodes_by_category(tmp_path):
    won = EpisodeResult(EpisodeKey(0, 9, 0, "no_think"), "task_0", "do it", Outcome.SUCCESS, 80)
    (row,) = rows_of(tmp_path, Subset.OBJECT, [failure(0, placing()), failure(1, placing()), won])
    assert row == Ending("plain", "no_think", {Category.SUCCESS: 1, Category.NEVER_TOUCHED: 2})


def test_a_row_without_milestones_is_left_out(tmp_path):
    assert rows_of(tmp_path, Subset.OBJECT, [failure(0, {}), failure(1, placing())]) == ()
    assert endings_section(()) == ""


def test_the_counts_are_in_the_bar_and_beside_it():
    rows = (
        Ending("<b>A", "no_think", {Category.SUCCESS: 7, Category.DROPPED: 2}),
        Ending("B", "think", {Category.OUT_OF_TIME: 9}),
    )
    html = endings_section(rows)
    assert "<b>A" not in html
    assert re.findall(r'flex: (\d+) 1 0" title="([^"]+)">(\d+)<', html) == [
        ("7", "success: 7", "7"),
        ("2", "dropped: 2", "2"),
        ("9", "out of time: 9", "9"),
    ]
    assert re.findall(r"<td>(\d+|–)</td>", html) == ["7", "2", "–", "–", "–", "9"]
    assert re.findall(r"</i>([^<]+)</th>", html) == ["success", "dropped", "out of time"]


def luminance(colour):
    channels = (
        [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] if len(colour) == 7 else [int(colour[1], 16) / 15] * 3
    )
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_number_is_legible_on_its_colour_in_light_and_dark():
    found = re.findall(r"\.e\d+ \{ background: (#\w+); color: (#\w+); \}", STYLE)
    assert len(found) == 2 * len(Category)
    for fill, text in found:
        darker, lighter = sorted((luminance(fill), luminance(text)))
        assert (lighter + 0.05) / (darker + 0.05) > 4.5  # WCAG AA


def test_failures_grow_lighter_the_further_they_came():
    fills = [fill for fill, _ in re.findall(r"\.e\d+ \{ background: (#\w+); color: (#\w+); \}", STYLE)]
    for theme in (fills[: len(Category)], fills[len(Category) :]):
        ramp = [luminance(fill) for fill in theme[2:-1]]
        assert ramp == sorted(ramp)
        assert len(set(ramp)) == len(ramp)
