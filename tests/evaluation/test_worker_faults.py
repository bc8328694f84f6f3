"""Whatever happens to a simulator process: its episode is tried again, the others are not blamed, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from configs.schema import EvalConfig
from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.libero_utils import MAX_STEPS
from evaluation.episodes import EpisodeKey, EpisodeRequest, make_protocol
from evaluation.libero_eval import Subject, evaluate
from evaluation.messages import Begin, Chunk, View
from evaluation.simulators import LIBERO, Broken, SimulatorPool
from tests.evaluation.fakes import DIES_AT_IMPORT, ENV, FACTORY, NO_GL, FakePolicy
from tests.evaluation.test_rollout import gone, make_slice, published, run

ONCE = ("segfault", "sigkill", "hang", "no_gl", "unstable")


def break_episodes(monkeypatch: pytest.MonkeyPatch, folder: Path, **faults: tuple[str, int]) -> None:
    """faults: t<task>i<init state> -> (kind, attempts that break). Every attempt adds an x to the file of that name."""
    asked = {
        name.replace("t", "").replace("i", "/"): {"kind": kind, "attempts": attempts, "log": str(folder / name)}
        for name, (kind, attempts) in faults.items()
    }
    monkeypatch.setenv("FAKE_FAULTS", json.dumps(asked))


def errors(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(r["task_id"], r["init_state"], r["reason"]) for r in rows if r["outcome"] == "error"]


def test_each_fault_costs_an_attempt_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "calm", num_trials=5)
    names = [f"t{task}i{init}" for init in (1, 3) for task in (0, 3)] + ["t0i4"]
    break_episodes(monkeypatch, tmp_path, **{name: (kind, 2) for name, kind in zip(names, ONCE, strict=True)})
    run(tmp_path / "stormy", num_trials=5, slots=2, timeout_s=2)
    assert published(tmp_path / "calm") == published(tmp_path / "stormy")
    for name in names:
        assert len((tmp_path / name).read_text()) >= 3  # more where a neighbour took the process down


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """The rows of six episodes in which nothing breaks."""
    return run(tmp_path_factory.mktemp("calm"), num_trials=3, think_trials=0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("segfault", "3 attempts: simulator died (killed by signal 11)"),
        ("sigkill", "3 attempts: simulator died (killed by signal 9)"),
        ("hang", "3 attempts: simulator gave no answer for 1 s (killed by signal 9)"),
        ("no_gl", "3 attempts: simulator died (exit code 1): RuntimeError: EGLError( err = EGL_BAD_CONTEXT, )"),
        ("unstable", "3 attempts: the arm left the building"),
    ],
)
def test_a_poison_episode_becomes_an_error_and_its_neighbours_are_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: list[dict[str, object]], kind: str, reason: str
) -> None:
    break_episodes(monkeypatch, tmp_path, t3i0=(kind, 99))
    rows = run(tmp_path / "w", workers=1, slots=3, num_trials=3, think_trials=0, timeout_s=1 if kind == "hang" else 60)
    assert errors(rows) == [(3, 0, reason)]
    assert (tmp_path / "t3i0").read_text() == "xxx"
    poisoned = (3, 0)
    assert [r for r in rows if r["outcome"] != "error"] == [
        r for r in calm if (r["task_id"], r["init_state"]) != poisoned
    ]
    counts = json.loads((tmp_path / "w/summary.json").read_text())["modes"]["no_think"]
    assert (counts["successes"], counts["trials"], counts["errors"]) == (5, 5, 1)


def test_an_unstable_simulation_may_be_the_last_before_a_worker_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "calm", num_trials=2, think_trials=0)
    break_episodes(monkeypatch, tmp_path, t0i0=("unstable", 1), t0i1=("unstable", 2))

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError("the engine goes round and round")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    try:
        run(tmp_path / "w", workers=1, slots=1, recycle=1, num_trials=2, think_trials=0)
    finally:
        signal.alarm(0)
    assert published(tmp_path / "w") == published(tmp_path / "calm")


def test_an_episode_that_ended_is_not_lost_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last view and the end of the process, which a neighbour broke, are read in one go."""
    break_episodes(monkeypatch, tmp_path, t3i0=("sigkill", 1))
    protocol = make_protocol(EvalConfig(), execute=4, max_steps=4)

    def request(task: int) -> Begin:
        return Begin(EpisodeRequest(Subset.SPATIAL, EpisodeKey(task, 0, 0, "no_think"), protocol))

    with SimulatorPool(1, ENV, FACTORY, slots=2) as pool:
        pool.begin(0, request(0))
        while not pool.poll(1.0):
            pass
        pool.execute(0, Chunk(np.zeros((4, 7), np.float32)))
        pool.begin(1, request(3))
        pool.workers[0].process.wait(30)
        (first, view), (second, broken) = pool.poll(1.0)
    assert first == 0
    assert isinstance(view, View)
    assert view.over
    assert second == 1
    assert isinstance(broken, Broken)


def test_an_unstable_simulation_needs_no_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_episodes(monkeypatch, tmp_path, t0i0=("unstable", 1))
    with SimulatorPool(1, ENV, FACTORY, slots=2) as pool:
        before = pool.workers[0].process.pid
        subject = Subject(FakePolicy(), "a" * 64, {"phase": "any"})
        evaluate(make_slice(num_trials=1, think_trials=0), StageContext(tmp_path, {}), subject, pool)
        assert pool.workers[0].process.pid == before
    assert (tmp_path / "t0i0").read_text() == "xx"


@pytest.mark.parametrize(("factory", "message"), [(NO_GL, "no GL here"), (DIES_AT_IMPORT, "while starting")])
def test_a_machine_without_a_simulator_stops_the_stage(tmp_path: Path, factory: str, message: str) -> None:
    subject = Subject(FakePolicy(), "a", {})
    with SimulatorPool(1, ENV, factory) as pool, pytest.raises(EnvironmentProblem, match=message):
        evaluate(make_slice(), StageContext(tmp_path, {}), subject, pool)


def test_a_worker_is_replaced_after_its_episodes_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also no file descriptor: sockets, logs and shared memory go with each worker."""
    pids: set[int] = set()
    before = len(os.listdir("/proc/self/fd"))
    with SimulatorPool(2, ENV, FACTORY, slots=2, recycle=2) as pool:

        class Watching(FakePolicy):
            def act(self, observations):
                pids.update(worker.process.pid for worker in pool.workers)
                return super().act(observations)

        subject = Subject(Watching(), "a" * 64, {"phase": "any"})
        evaluate(make_slice(), StageContext(tmp_path, {}), subject, pool)
        assert len(os.listdir("/proc/self/fd")) <= before + 3 * 2  # per worker: socket, log, shared memory
    assert len(pids) >= 5  # ten episodes, two per worker
    assert gone(sorted(pids), within_s=5.0)


def test_a_driver_that_is_killed_leaves_no_worker_at_work(tmp_path: Path) -> None:
    """A worker inside a step that never ends does not read its socket: the kernel ends it."""
    child = os.fork()
    if child == 0:
        os.environ["FAKE_FAULTS"] = json.dumps({"0/0": {"kind": "hang", "attempts": 9, "log": str(tmp_path / "log")}})
        with SimulatorPool(1, ENV, FACTORY) as pool:
            (tmp_path / "pid").write_text(str(pool.workers[0].process.pid))
            pool.describe(Subset.SPATIAL, 0)
            subject = Subject(FakePolicy(), "a" * 64, {"phase": "any"})
            evaluate(make_slice(), StageContext(tmp_path, {}), subject, pool)
        os._exit(0)
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert gone([int((tmp_path / "pid").read_text())], within_s=5.0)


@pytest.mark.sim
@pytest.mark.slow
def test_a_real_context_that_is_lost_costs_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_STEPS, Subset.SPATIAL, 12)
    monkeypatch.setenv("LOSE_CONTEXT_ONCE", str(tmp_path / "lost"))
    config = make_slice(num_trials=2, think_trials=0, videos=0)
    found = []
    for name, factory in (("calm", LIBERO), ("lost", "tests.evaluation.lost_context:LosesContext")):
        (tmp_path / f"{name}_work").mkdir()
        with SimulatorPool(1, ENV, factory, slots=2) as pool:
            subject = Subject(FakePolicy(), "a" * 64, {"phase": "any"})
            evaluate(replace(config, tasks=(0,)), StageContext(tmp_path / f"{name}_work", {}), subject, pool)
        found.append(published(tmp_path / f"{name}_work"))
    assert "EGL_" in (tmp_path / "lost").read_text()
    assert found[0] == found[1]
