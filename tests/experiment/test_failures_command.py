"""`nora-ecot failures`: tables for people, JSON for programs, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.choices import Subset
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome
from experiment.cli import main
from tests.evaluation.test_failures import JOINT
from tests.helpers.evaluations import write_evaluation

NEVER = {
    "objects": {},
    "parts": {},
    "goals": [JOINT],
}
LATE = {
    "objects": {},
    "parts": {},
    "goals": [NEVER["goals"][0] | {"touched": 9, "progress_max": 0.5, "progress_end": 0.5}],
}


def episode(task, init_state, end, mode="no_think"):
    """end: "success", "error", or the milestones of a failure."""
    outcome = Outcome(end) if isinstance(end, str) else Outcome.FAILURE
    key = EpisodeKey(task, init_state, 0, mode)
    return EpisodeResult(key, f"task_{task}", "open it", outcome, 80, milestones=end if isinstance(end, dict) else {})


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "my 项目"
    folder.mkdir()
    monkeypatch.chdir(folder)
    results = Path("outputs/eval_results")
    before = [episode(0, 0, NEVER), episode(0, 1, LATE), episode(3, 0, "success"), episode(3, 1, "error")]
    after = [episode(0, 0, LATE), episode(0, 1, "success"), episode(3, 0, "success"), episode(3, 1, "success")]
    write_evaluation(results / "baseline" / "object", "baseline", Subset.OBJECT, before)
    write_evaluation(results / "text_cot" / "object", "text_cot", Subset.OBJECT, [*after, episode(0, 0, LATE, "think")])
    write_evaluation(results / "replay" / "object", "replay", Subset.OBJECT, before, control=True)
    return folder


def run(*words):
    return main("failures", words)


def test_a_table_of_categories_by_task_and_the_command_that_shows_one(project, capsys):
    assert run("outputs/eval_results/baseline/object") == 0
    assert (
        capsys.readouterr().out
        == """\
baseline/object, no_think: 1 of 3 episodes succeed
                   task 0  task 3  all
  success               0       1    1
  never touched         1       0    1
  out of time           1       0    1
  simulator error       0       1    1
  e.g. never touched (open drawer_1):
    nora-ecot film outputs/eval_results/baseline/object --task 0 --init_state 0
  e.g. out of time (open drawer_1):
    nora-ecot film outputs/eval_results/baseline/object --task 0 --init_state 1

object task 0: task_0
object task 3: task_3
"""
    )


def test_how_episodes_moved_between_two_runs(project, capsys):
    assert run("outputs/eval_results/baseline/object", "outputs/eval_results/text_cot/object") == 0
    said = capsys.readouterr().out
    assert "--init_state 0 --mode think" in said
    moved = said.split("baseline/object (down) -> text_cot/object (across), no_think: ")[1]
    assert moved.split("\n\n")[0] == (
        "3 episodes of both\n"
        "                 success  out of time\n"
        "  success              1            0\n"
        "  never touched        0            1\n"
        "  out of time          1            0"
    )


def test_everything_below_a_folder_compares_phases_and_leaves_controls_out(project, capsys):
    assert run("outputs/eval_results", "--mode", "no_think", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [part["run"].removeprefix("outputs/eval_results/") for part in said["runs"]] == [
        "baseline/object",
        "replay/object",
        "text_cot/object",
    ]
    assert said["runs"][0]["tasks"]["0"] == {"never touched": 1, "out of time": 1}
    assert said["runs"][0]["episodes"][0] == {
        "task": 0,
        "init_state": 0,
        "seed": 0,
        "category": "never touched",
        "goal": "open drawer_1",
        "reached": 0,
        "goals": 1,
        "film": "nora-ecot film outputs/eval_results/baseline/object --task 0 --init_state 0",
    }
    (moved,) = said["moves"]
    assert (moved["from"], moved["to"]) == tuple(
        f"outputs/eval_results/{phase}/object" for phase in ("baseline", "text_cot")
    )
    assert {"from": "never touched", "to": "out of time", "episodes": 1} in moved["counts"]


def test_the_stores_copies_of_evaluations_are_not_counted_once_more(project, capsys):
    results = Path("outputs/eval_results/baseline/object")
    shutil.copytree(results, "outputs/.store/evaluate/0123456789abcdef0123")
    assert run("outputs", "--json") == 0
    told = [entry["run"] for entry in json.loads(capsys.readouterr().out)["runs"]]
    assert len(told) == 4
    assert not any(".store" in folder for folder in told)
    assert run("outputs/.store/evaluate") == 0, "where it is named, it is meant"


def test_runs_of_different_environments_are_shown_but_not_compared(project, capsys):
    other = Path("elsewhere/text_cot/object")
    write_evaluation(other, "text_cot", Subset.OBJECT, [episode(0, 0, "success")], look="official")
    assert run("outputs/eval_results/baseline/object", str(other)) == 0
    said = capsys.readouterr().out
    assert "text_cot/object, no_think: 1 of 1 episodes succeed" in said
    assert "not compared" in said
    assert "look: 'light' and 'official'" in said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "name an evaluation"),
        (("text_cot/object",), "did you mean outputs/eval_results/text_cot/object?"),
        (("nowhere",), "nowhere does not exist; evaluate first"),
        ((".", "--jsn"), "did you mean --json?"),
        (("outputs/eval_results/baseline/object", "--mode", "think"), "no episode of these runs"),
    ],
)
def test_what_is_refused(project, capsys, words, error):
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert error in said
    assert len(said.strip().splitlines()) == 1


def test_an_evaluation_without_milestones_is_to_be_made_again(project, capsys):
    bare = replace(episode(0, 0, NEVER), milestones={}, reason="step limit")
    write_evaluation(Path("old/baseline/object"), "baseline", Subset.OBJECT, [bare])
    assert run("old/baseline/object") == 2
    assert "before milestones were recorded" in capsys.readouterr().err


def test_a_folder_without_evaluations(project, capsys):
    (project / "empty").mkdir()
    assert run("empty") == 2
    assert "empty holds no evaluation" in capsys.readouterr().err
