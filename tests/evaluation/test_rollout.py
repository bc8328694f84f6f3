"""The engine on a fake simulator: order, worker count and broken simulators change nothing that is published."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from configs.checks import ConfigError
from configs.choices import Mode, Subset
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from data_pipeline.contract import EnvironmentProblem, Interrupted, StageContext
from evaluation.libero_eval import Subject, evaluate
from evaluation.records import FILES
from evaluation.simulators import SimulatorPool, release_pool, shared_pool
from tests.evaluation.fakes import ENV, FACTORY, OF_TWO_KINDS, FakePolicy


def make_slice(**changes: object) -> EvaluateSlice:
    values = {"num_trials": 4, "think_trials": 1, "freeze_chunks": 4, "videos": 0, **changes}
    return EvaluateSlice(
        subset=Subset.SPATIAL,
        tasks=(0, 3),
        modes=(Mode.NO_THINK, Mode.THINK),
        eval=EvalConfig(**values),
        env=ENV,
        trainer=TrainerConfig(),
        execute=4,
    )


def run(
    work: Path,
    *,
    workers: int = 2,
    slots: int = 1,
    recycle: int = 0,
    policy: FakePolicy | None = None,
    timeout_s: float = 60,
    **changes: object,
):
    work.mkdir(exist_ok=True)
    subject = Subject(policy or FakePolicy(), "a" * 64, {"phase": "any"})
    with SimulatorPool(workers, ENV, FACTORY, timeout_s, slots=slots, recycle=recycle) as pool:
        outputs = evaluate(make_slice(**changes), StageContext(work, {}), subject, pool)
    assert all((work / name).exists() for name in outputs)
    return [json.loads(line) for line in (work / "episodes.jsonl").read_text().splitlines()]


def published(work: Path) -> dict[str, bytes]:
    """Everything that must not depend on what happened on the way."""
    files = [work / name for name in FILES if not name.startswith("timing")]
    whole = [inside for path in files for inside in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {str(path.relative_to(work)): path.read_bytes() for path in whole}


def test_every_planned_episode_has_one_row_in_order(tmp_path: Path) -> None:
    rows = run(tmp_path / "w")
    identity = [(r["task_id"], r["init_state"], r["mode"]) for r in rows]
    assert identity == sorted(identity)
    assert len(set(identity)) == len(rows) == 2 * 4 + 2 * 1
    assert {r["outcome"] for r in rows} == {"success"}
    assert not any("wall_s" in r for r in rows)
    think = [r for r in rows if r["mode"] == "think"]
    assert all(r["reasoning"].startswith("TASK: do task") for r in think)
    first = think[0]
    fresh = -(-first["queries"] // 4)  # a reasoning is kept for four chunks
    assert first["tokens"] == 40 * fresh + 7 * (first["queries"] - fresh)


def test_worker_count_and_timing_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "one", workers=1, videos=1)
    for name, workers, slots, recycle in (("three", 3, 1, 0), ("slots", 1, 3, 0), ("both", 2, 2, 2)):
        slow = FakePolicy(delay_s=0.02)
        run(tmp_path / name, workers=workers, slots=slots, recycle=recycle, policy=slow, videos=1)
        assert published(tmp_path / "one") == published(tmp_path / name)
        assert max(slow.batches) > 1


def test_batches_are_filled_while_no_simulator_lacks_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk takes longer than a request waits for others, but the process has a third episode to work on."""
    monkeypatch.setenv("FAKE_STEP_S", "0.025")
    policy = FakePolicy()
    run(tmp_path, workers=1, slots=3, policy=policy, batch_rows=2, num_trials=2, think_trials=0)
    assert set(policy.batches[:-4]) == {2}  # at the end others are no longer to come


def test_success_at_any_step_or_after_the_chunk(tmp_path: Path) -> None:
    standard = run(tmp_path / "s", think_trials=0)
    nora = run(tmp_path / "n", think_trials=0, protocol="nora")
    assert all(r["steps"] % 5 == 0 for r in nora)
    assert any(r["steps"] % 4 for r in standard)
    assert {r["protocol"] for r in nora} == {"nora"}
    assert {r["run"] for r in nora}.isdisjoint({r["run"] for r in standard})


def test_the_step_limit_and_a_nan_are_failures_with_a_reason(tmp_path: Path) -> None:
    policy = FakePolicy(blind_to=("do task 0",), nan_at=("do task 3",))
    rows = run(tmp_path / "w", policy=policy, think_trials=0, num_trials=1)
    assert [(r["outcome"], r["reason"], r["steps"]) for r in rows] == [
        ("failure", "step limit", 220),
        ("failure", "the policy gave a non-finite action", 0),
    ]


def test_an_interrupted_stage_resumes_without_repeating(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    work, reports = tmp_path / "cut", []
    work.mkdir()
    stop_after = StageContext(
        work, {}, report=lambda done, total, note: reports.append(done), stop_requested=lambda: len(reports) >= 3
    )
    with SimulatorPool(2, ENV, FACTORY) as pool, pytest.raises(Interrupted):
        evaluate(make_slice(), stop_after, Subject(FakePolicy(), "a" * 64, {"phase": "any"}), pool)
    finished = len(reports)
    run(work)
    assert 3 <= finished < 10
    assert (work / "episodes.jsonl").read_bytes() == (tmp_path / "whole/episodes.jsonl").read_bytes()


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    """A zombie waits for its new parent to read its exit code: it is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_with_another_environment_is_refused(tmp_path: Path) -> None:
    subject = Subject(FakePolicy(), "a", {})
    with SimulatorPool(2, ENV, OF_TWO_KINDS) as pool, pytest.raises(EnvironmentProblem, match="renderer: 'process"):
        evaluate(make_slice(), StageContext(tmp_path, {}), subject, pool)


def test_a_kept_pool_is_found_again_even_if_a_process_died_meanwhile(tmp_path: Path) -> None:
    run(tmp_path / "calm", think_trials=0)
    subject = Subject(FakePolicy(), "a" * 64, {"phase": "any"})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with shared_pool(EvalConfig(), ENV, FACTORY) as pool:
            pids = [worker.process.pid for worker in pool.workers]
            evaluate(make_slice(think_trials=0), StageContext(tmp_path / name, {}), subject, pool)
        if name == "one":
            os.kill(pids[0], signal.SIGKILL)
            first = pids
    assert pids[1] == first[1]
    assert (tmp_path / "two/episodes.jsonl").read_bytes() == (tmp_path / "calm/episodes.jsonl").read_bytes()
    with pytest.raises(Interrupted), shared_pool(EvalConfig(), ENV, FACTORY):
        raise Interrupted
    assert gone(pids, within_s=5.0)
    release_pool()


def test_out_of_range_trials_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_trials"):
        make_slice(num_trials=51)
