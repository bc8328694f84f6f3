"""Perturbed evaluations stand beside the plain ones, paired, and never in their cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from configs.slices import ReportSlice
from data_pipeline.contract import StageContext
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Protocol, to_row
from evaluation.identity import identity_of
from evaluation.messages import PERTURBATION
from evaluation.records import summarise
from evaluation.report import run_report
from evaluation.robustness import robustness
from evaluation.statistics import PairedCounts
from evaluation.story import tell
from evaluation.table import RunRecord, check_mergeable

WON, LOST, BROKE = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ERROR


def record(slug: str, outcomes: Sequence[Outcome], perturbation: str = "", adapter: str = "a1") -> RunRecord:
    phase, _, evaluated = slug.partition("/")
    subset = evaluated.partition("@")[0]
    summary = {
        "subset": subset,
        "adapter": adapter,
        "card": {"base": "tiny:abc", "phase": {"name": phase, "label": phase.upper(), "segments": []}},
        "fingerprint": {"look": "light"} | ({PERTURBATION: perturbation} if perturbation else {}),
        "protocol": asdict(Protocol("standard", 10, 280, 4, True, 1, 280)),
        "videos": [],
    }
    episodes = tuple(
        EpisodeResult(EpisodeKey(0, trial, 0, "no_think"), "task_0", "go", outcome, steps=9)
        for trial, outcome in enumerate(outcomes)
    )
    return RunRecord(slug, Subset(subset), summary, episodes, ())


PLAIN = record("words/object", [WON, WON, WON, LOST, WON])
LAYOUT = record("words/object@layout2", [LOST, WON, LOST, WON, BROKE], "layout:2")


def test_pairs_are_of_the_same_task_init_state_and_seed_and_errors_are_nobodys() -> None:
    [found] = robustness([PLAIN, LAYOUT])
    assert found.counts == PairedCounts(both=1, only_a=2, only_b=1, neither=0)
    assert found.cells()[:8] == ["WORDS", "no_think", "layout:2", "object", "3/4", "2/4", "2", "1"]
    assert found.cells()[8].startswith("-25 points [")
    assert found.cells()[9] == "1.000"


def test_suites_are_pooled_and_perturbations_are_not() -> None:
    goal = [record("words/goal", [WON]), record("words/goal@layout2", [LOST], "layout:2")]
    found = robustness([PLAIN, LAYOUT, *goal, record("words/object@layout3", [LOST] * 5, "layout:3")])
    assert [(str(f.perturbation), f.suites, f.counts.pairs) for f in found] == [
        ("layout:2", ("object", "goal"), 5),
        ("layout:3", ("object",), 5),
    ]


@pytest.mark.parametrize("plain", [[], [replace(PLAIN, summary={**PLAIN.summary, "adapter": "another"})]])
def test_without_a_plain_evaluation_of_the_same_adapter_there_is_no_difference(plain: list[RunRecord]) -> None:
    [found] = robustness([*plain, LAYOUT])
    assert found.cells()[4:] == ["–", "2/4", "–", "–", "–", "–"]


def test_the_table_has_the_plain_rows_alone() -> None:
    [row] = tell([PLAIN, LAYOUT], "").rows
    assert (row.cells["object"].successes, row.cells["object"].trials) == (4, 5)
    assert tell([LAYOUT], "").rows == ()


def test_a_perturbation_is_no_other_environment_and_another_environment_is() -> None:
    check_mergeable([PLAIN, LAYOUT])
    elsewhere = {**LAYOUT.summary, "fingerprint": {"look": "official", PERTURBATION: "layout:2"}}
    with pytest.raises(ConfigError, match="environment fingerprint differs"):
        check_mergeable([PLAIN, replace(LAYOUT, summary=elsewhere)])


def test_every_format_has_the_section_and_only_where_something_was_perturbed(tmp_path: Path) -> None:
    inputs = {}
    for one in (PLAIN, LAYOUT):
        folder = inputs[f"evaluate/{one.slug}"] = tmp_path / one.slug
        (folder / "videos").mkdir(parents=True)
        modes = {"no_think": summarise(one.episodes)}
        (folder / "summary.json").write_text(json.dumps({**one.summary, "modes": modes}))
        columns = identity_of(one.summary).columns
        rows = [to_row(episode) | columns for episode in one.episodes]
        (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        timings = [asdict(episode.key) for episode in one.episodes]
        (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))
    texts = {}
    for name, slugs in {"plain": [PLAIN.slug], "both": [PLAIN.slug, LAYOUT.slug], "perturbed": [LAYOUT.slug]}.items():
        work = tmp_path / name
        work.mkdir()
        run_report(ReportSlice(tuple(slugs), "t", "tiny"), StageContext(work, inputs))
        texts[name] = [(work / file).read_text() for file in ("results.md", "results.html")]
    assert all("Robustness" not in text for text in texts["plain"])
    assert all(
        "Robustness" in text and "layout:2" in text and "5 cm" in text for text in texts["both"] + texts["perturbed"]
    )
    assert "| WORDS | no_think | layout:2 | object | 3/4 | 2/4 | 2 | 1 |" in texts["both"][0]
    assert "| WORDS | no_think | layout:2 | object | – | 2/4 | – |" in texts["perturbed"][0]
    assert texts["both"][0].index("Robustness") < texts["both"][0].index("Adapters:")
