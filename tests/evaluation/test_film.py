"""Films are made afterwards, from what was recorded, and only of what really happened."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.building import canonical
from configs.choices import Subset
from configs.schema import EvalConfig
from data_pipeline.contract import EnvironmentProblem, StageContext
from evaluation import film
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, episode_name
from evaluation.identity import identity_of
from evaluation.ledger import Finished
from evaluation.libero_eval import Subject, evaluate
from evaluation.records import read_finished, read_lines, read_summary
from evaluation.simulators import SimulatorPool
from tests.evaluation.fakes import FACTORY, FakeEnv, FakePolicy
from tests.evaluation.test_rollout import ENV, make_slice, published, run

CLUMSY = {"blind_to": ("do task 0",)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "w"
    run(folder, policy=FakePolicy(**CLUMSY), num_trials=2, videos=1)
    return folder


def test_recorded_actions_do_again_what_was_done(work: Path) -> None:
    actions = np.load(work / "actions.npz")
    rows = read_lines(work / "episodes.jsonl")
    assert len(actions.files) == len(rows) == 6
    for row in rows:
        mine = actions[episode_name(EpisodeKey(row["task_id"], row["init_state"], row["seed"], row["mode"]))]
        assert (mine.dtype, mine.shape) == (np.float32, (row["steps"], 7))
        env = FakeEnv(Subset.SPATIAL, row["task_id"], ENV)
        env.reset(row["seed"], row["init_state"])
        done = [env.step(action) for action in mine]
        assert done[-1] == (row["outcome"] == "success")
        assert not any(done[:-1])


def test_thoughts_stand_at_the_steps_where_they_were_written(work: Path) -> None:
    thoughts = {(row["task_id"], row["mode"]): row["thoughts"] for row in read_lines(work / "thoughts.jsonl")}
    assert thoughts.keys() == {(0, "think"), (3, "think")}
    blind = thoughts[0, "think"]
    assert [step for step, _ in blind] == list(range(0, 220, 16)), "one reasoning for four chunks of four steps"
    assert blind[1][1] == "TASK: do task 0 MOVE: <b>left</b> & at step 16"


def test_the_first_failure_and_the_first_success_of_each_mode_are_filmed(work: Path) -> None:
    names = sorted(path.name for path in (work / "videos").iterdir())
    assert names == [
        "no_think_task00_init00_seed0.mp4",
        "no_think_task03_init00_seed0.mp4",
        "think_task00_init00_seed0.mp4",
        "think_task03_init00_seed0.mp4",
    ]
    assert all(b"avc1" in (work / "videos" / name).read_bytes() for name in names)
    assert sorted(read_summary(work)["videos"]) == names


def test_a_choice_is_by_key_whatever_finished_first() -> None:
    def result(task: int, outcome: Outcome) -> EpisodeResult:
        return EpisodeResult(EpisodeKey(task, 0, 0, "think"), "", "", outcome, 1)

    results = [result(task, Outcome.FAILURE if task % 2 else Outcome.SUCCESS) for task in (5, 3, 0, 4, 1)]
    results.append(result(2, Outcome.ERROR))
    assert [key.task_id for key in film.choose(results, 2)] == [0, 1, 3, 4]
    assert film.choose(results, 0) == []


def replayed(work: Path, episodes: list[Finished]) -> list[tuple[EpisodeResult, film.Frames]]:
    shown: list[tuple[EpisodeResult, film.Frames]] = []
    with SimulatorPool(1, ENV, FACTORY) as pool:
        film.replay(episodes, identity_of(read_summary(work)), pool, lambda e, r, f: shown.append((r, f)))
    return shown


def test_a_replay_shows_each_query_with_the_reasoning_it_acted_on(work: Path) -> None:
    episodes = {e.result.key: e for e in read_finished(work)}
    episode, moving = episodes[EpisodeKey(0, 0, 0, "think")], episodes[EpisodeKey(3, 1, 0, "no_think")]
    ((result, frames),) = replayed(work, [episode])
    assert film.disagreement(episode.result, result) == ""
    assert len(frames) == episode.result.queries
    assert frames[0][1] == frames[3][1] == episode.trace.thoughts[0][1]
    assert frames[4][1] == episode.trace.thoughts[1][1]
    assert any((image != frames[0][0]).any() for image, _ in replayed(work, [moving])[0][1]), "the world moves"


def test_a_replay_that_ends_otherwise_is_refused_with_both_ends(work: Path) -> None:
    episode = next(e for e in read_finished(work) if e.result.outcome is Outcome.SUCCESS)
    still = replace(episode.trace, actions=np.zeros_like(episode.trace.actions))
    ((result, _),) = replayed(work, [replace(episode, trace=still)])
    with pytest.raises(EnvironmentProblem, match=r"outcome: 'success' and 'failure'.*go on like this"):
        film.check_same(episode.result, result, "go on like this")


def test_the_number_of_films_is_no_other_evaluation() -> None:
    """Whoever cannot film finishes what is evaluated already with `eval.videos=0`."""
    assert canonical(EvalConfig(videos=0)) == canonical(EvalConfig(videos=3))


def test_a_nan_ends_the_replay_as_it_ended_the_episode(tmp_path: Path) -> None:
    policy = FakePolicy(nan_at=("do task 3",))
    rows = run(tmp_path / "w", policy=policy, num_trials=1, think_trials=0, videos=1)
    assert [row["reason"] for row in rows] == ["", "the policy gave a non-finite action"]
    assert len(list((tmp_path / "w/videos").iterdir())) == 2


def test_films_are_made_again_where_an_attempt_left_some(work: Path, tmp_path: Path) -> None:
    """A film of an episode that is no longer the first one goes; one that is there stays."""
    folder = tmp_path / "w"
    (folder / "videos").mkdir(parents=True)
    (folder / "videos/no_think_task03_init01_seed0.mp4").write_bytes(b"another first")
    kept = (work / "videos/no_think_task00_init00_seed0.mp4").read_bytes()
    (folder / "videos/no_think_task00_init00_seed0.mp4").write_bytes(kept)
    run(folder, policy=FakePolicy(**CLUMSY), num_trials=2, videos=1)
    assert published(folder) == published(work)


def test_latency_and_tokens_of_every_query_have_percentiles(work: Path) -> None:
    timing = json.loads((work / "timing.json").read_text())
    rows = [r for r in read_lines(work / "episodes.jsonl") if r["mode"] == "no_think"]
    assert timing["no_think"]["queries"] == sum(row["queries"] for row in rows)
    assert sum(timing["think"]["share"].values()) == pytest.approx(1, abs=0.01)
    assert min(timing["think"]["share"].values()) >= 0
    assert timing["no_think"]["tokens"] == {"p50": 7.0, "p95": 7.0}
    assert timing["think"]["tokens"] == {"p50": 7.0, "p95": 40.0}
    assert 0 <= timing["think"]["latency_s"]["p50"] <= timing["think"]["latency_s"]["p95"] < 5


def test_an_evaluation_opened_again_runs_only_its_errors(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "w"
    fault = {"3/1": {"kind": "segfault", "attempts": 99, "log": str(tmp_path / "log")}}
    monkeypatch.setenv("FAKE_FAULTS", json.dumps(fault))
    broken = run(folder, policy=FakePolicy(**CLUMSY), num_trials=2, videos=1)
    assert sum(row["outcome"] == "error" for row in broken) == 1
    (folder / "ledger.sqlite").unlink()  # a finished stage publishes none

    monkeypatch.delenv("FAKE_FAULTS")
    ran: list[str] = []
    context = StageContext(folder, {}, report=lambda done, total, note: ran.append(note))
    with SimulatorPool(2, ENV, FACTORY) as pool:
        subject = Subject(FakePolicy(**CLUMSY), "a" * 64, {"phase": "any"})
        evaluate(make_slice(num_trials=2, videos=1), context, subject, pool)
    assert ran == ["task 3 init 1 no_think: success"]
    assert published(folder) == published(work)


def test_records_of_other_conditions_are_not_continued(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(work, folder, ignore=shutil.ignore_patterns("ledger*"))
    with SimulatorPool(1, ENV, FACTORY) as pool, pytest.raises(EnvironmentProblem, match=r"adapter: 'aaaa.* and 'b'"):
        evaluate(make_slice(num_trials=2), StageContext(folder, {}), Subject(FakePolicy(), "b", {}), pool)
