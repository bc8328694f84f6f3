"""Untrained policies through the engine: blind ones see nothing, the expert does exactly what it does alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.choices import Control, Look, Mode, Subset
from configs.data import EnvConfig
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import ControlSlice
from data_pipeline.contract import GRIPPER_OPEN, StageContext
from data_pipeline.libero_utils import MAX_STEPS
from evaluation.controls import ExpertPolicy, RandomPolicy, ZeroPolicy, make_control, run_control
from evaluation.episodes import SETTLE_STEPS, EpisodeKey
from evaluation.libero_eval import Subject, evaluate
from evaluation.policy_api import NO_IMAGE, Decision, Observation
from evaluation.simulators import SimulatorPool, release_pool
from tests.evaluation.fakes import UNDRAWN

KEY = EpisodeKey(task_id=3, init_state=7, seed=0, mode="no_think")
FAKE_ENV = EnvConfig(assets="builtin", resolution=64)


def query(step: int = 0, key: EpisodeKey = KEY, advice: np.ndarray | str | None = None) -> Observation:
    return Observation(NO_IMAGE, "do it", think=False, step=step, episode=key, advice=advice)


def test_zero_stays_with_the_gripper_open() -> None:
    (decision,) = ZeroPolicy(4).act([query()])
    assert decision.actions.tolist() == [[0, 0, 0, 0, 0, 0, GRIPPER_OPEN]] * 4


def test_random_follows_from_episode_and_step_alone() -> None:
    whole = RandomPolicy(8).act([query()])[0].actions
    np.random.seed(1)  # noqa: NPY002 - the global state has no say
    parts = [RandomPolicy(4).act([query(4), query(0)])[i].actions for i in (1, 0)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float32
    assert (np.abs(whole) <= 1).all()
    assert len(np.unique(whole)) == 56, "the gripper is drawn too"
    for other in (replace(KEY, task_id=2), replace(KEY, init_state=8), replace(KEY, seed=1)):
        assert not (RandomPolicy(8).act([query(key=other)])[0].actions == whole).any()


def test_random_draws_fill_the_range() -> None:
    actions = RandomPolicy(500).act([query()])[0].actions
    assert np.abs(actions.mean(axis=0)).max() < 0.1
    assert actions.min() < -0.99
    assert actions.max() > 0.99


def test_the_experts_advice_is_one_step_or_the_end() -> None:
    go, stop = ExpertPolicy().act([query(advice=np.full(7, 0.5, np.float32)), query(advice="no free grasp")])
    assert go.actions.tolist() == [[0.5] * 7]
    assert not go.gives_up
    assert stop.gives_up == "no free grasp"


def make_slice(control: Control, env: EnvConfig, **changes: Any) -> ControlSlice:
    return ControlSlice(
        subset=changes.pop("subset", Subset.SPATIAL),
        tasks=changes.pop("tasks", (0, 3)),
        modes=(Mode.NO_THINK,),
        eval=EvalConfig(**{"num_trials": 2, "videos": 0, **changes}),
        env=env,
        trainer=TrainerConfig(),
        execute=4,
        control=control,
    )


def rows_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "episodes.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("control", [Control.ZERO, Control.RANDOM])
def test_a_blind_control_is_a_row_like_any_other_and_nothing_is_drawn(tmp_path: Path, control: Control) -> None:
    config = make_slice(control, FAKE_ENV)
    written = []
    for workers in (1, 2):
        work = tmp_path / str(workers)
        work.mkdir()
        with SimulatorPool(workers, FAKE_ENV, UNDRAWN) as pool:  # where a picture is an error
            evaluate(config, StageContext(work, {}), make_control(control, horizon=4), pool)
        written.append((work / "episodes.jsonl").read_bytes())
    assert written[0] == written[1]
    summary = json.loads((tmp_path / "1/summary.json").read_text())
    assert summary["card"]["phase"]["name"] == control.value
    assert (summary["protocol"]["execute"], summary["errors"]) == (4, 0)
    rows = rows_of(tmp_path / "1")
    assert len(rows) == 4
    if control is Control.ZERO:
        assert {(r["outcome"], r["reason"], r["steps"]) for r in rows} == {("failure", "step limit", 220)}


class Resigns:
    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        return [Decision(np.zeros((0, 7), np.float32), gives_up="out of ideas") for _ in observations]


def test_a_policy_that_gives_up_has_failed_with_its_own_reason(tmp_path: Path) -> None:
    subject = replace(make_control(Control.ZERO, 4), policy=Resigns())
    with SimulatorPool(1, FAKE_ENV, UNDRAWN) as pool:
        evaluate(make_slice(Control.ZERO, FAKE_ENV), StageContext(tmp_path, {}), subject, pool)
    assert {(r["outcome"], r["reason"], r["steps"]) for r in rows_of(tmp_path)} == {("failure", "out of ideas", 0)}


def test_the_expert_has_its_own_steps_per_query_under_both_protocols() -> None:
    for protocol, blind in (("standard", 4), ("nora", 5)):
        config = make_slice(Control.EXPERT, FAKE_ENV, protocol=protocol)
        assert make_control(Control.EXPERT, 4).protocol(config).execute == 1
        assert make_control(Control.ZERO, 4).protocol(config).execute == blind


def alone(config: ControlSlice) -> list[tuple[int, int, bool, int, str]]:
    """The expert without the engine, as the benchmark of the expert runs it."""
    from data_pipeline.sim.environment import LiberoEnv
    from data_pipeline.sim.expert.expert import run_expert

    found = []
    for task in config.tasks:
        env = LiberoEnv(config.subset, task, config.env)
        for init_state in range(config.eval.num_trials):
            env.reset(0, init_state)
            env.settle(SETTLE_STEPS)
            attempt = run_expert(env, np.random.default_rng([task, init_state]), MAX_STEPS[config.subset])
            found.append((task, init_state, attempt.success, attempt.steps, attempt.reason))
        env.close()
    return found


def through_the_engine(config: ControlSlice, work: Path) -> list[tuple[int, int, bool, int, str]]:
    work.mkdir()
    run_control(config, StageContext(work, {}))
    release_pool()
    rows = rows_of(work)
    return [(r["task_id"], r["init_state"], r["outcome"] == "success", r["steps"], r["reason"]) for r in rows]


LIGHT = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128)


@pytest.mark.sim
def test_the_engine_does_not_break_a_good_policy(tmp_path: Path) -> None:
    config = make_slice(Control.EXPERT, LIGHT, subset=Subset.OBJECT, tasks=(0,), num_trials=1, sim_workers=1)
    found = through_the_engine(config, tmp_path / "w")
    assert [success for _, _, success, _, _ in found] == [True]
    assert found == alone(config)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("subset", [Subset.SPATIAL, Subset.OBJECT, Subset.GOAL, Subset.LONG])
def test_every_task_ends_as_the_expert_alone_ends_it(tmp_path: Path, subset: Subset) -> None:
    config = make_slice(Control.EXPERT, LIGHT, subset=subset, tasks=tuple(range(10)), num_trials=1)
    found, expected = through_the_engine(config, tmp_path / "w"), alone(config)
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    assert sum(success for _, _, success, _, _ in found) >= 9


@pytest.mark.sim
@pytest.mark.slow
def test_tasks_of_libero_90_that_know_their_objects_run(tmp_path: Path) -> None:
    config = make_slice(Control.ZERO, LIGHT, subset=Subset.NINETY, tasks=(0, 38, 46), num_trials=1)
    found = through_the_engine(config, tmp_path / "w")
    assert found == [(task, 0, False, 400, "step limit") for task in (0, 38, 46)]


def test_a_control_is_a_subject_whose_identity_is_its_name() -> None:
    digests = {make_control(c, 4).adapter for c in Control if c is not Control.REPLAY}
    assert len(digests) == 3
    assert isinstance(make_control(Control.ZERO, 4), Subject)


@pytest.mark.sim
@pytest.mark.slow
def test_the_expert_gives_up_what_it_has_no_skill_for(tmp_path: Path) -> None:
    config = make_slice(Control.EXPERT, LIGHT, subset=Subset.NINETY, tasks=(39,), num_trials=1)
    assert through_the_engine(config, tmp_path / "w") == [(39, 0, False, 0, "no skill for turnoff flat_stove_1")]
