"""Stage `demos`: identity of a demonstration, resumption, and what the files hold."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import AGENTVIEW, CAMERAS, WRIST, EpisodeId, StageContext, StageFailed
from data_pipeline.demo_outcomes import FailedAttempt, Outcome, table
from data_pipeline.hdf5_reading import list_demos
from data_pipeline.raw_loader import Hdf5Source, read_replay
from data_pipeline.replay import noop_mask
from data_pipeline.sim import demonstration, demos
from data_pipeline.sim.demo_files import task_info
from data_pipeline.sim.demonstration import attempt_seed
from data_pipeline.sim.demos import demo_jobs, run_demos
from data_pipeline.sim.expert.manner import Manner

ROOT = Path(__file__).parents[3]
ENV = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
CONFIG = DemosSlice(Subset.GOAL, (7,), episodes_per_task=3, seed=3, env=ENV)


class TestIdentity:
    def test_the_seed_of_an_attempt_depends_on_everything_that_names_it(self):
        first = EpisodeId(Subset.OBJECT, 0, 0)
        others = [EpisodeId(Subset.GOAL, 0, 0), EpisodeId(Subset.OBJECT, 1, 0), EpisodeId(Subset.OBJECT, 0, 1)]
        seeds = [attempt_seed(first, 0, 0), attempt_seed(first, 1, 0), attempt_seed(first, 0, 1)]
        seeds += [attempt_seed(other, 0, 0) for other in others]
        assert len(set(seeds)) == 6
        assert attempt_seed(first, 42, 0) == 109933547  # the same on every machine

    def test_more_demonstrations_do_not_change_the_first_ones(self, tmp_path):
        few = demo_jobs(CONFIG, tmp_path)
        many = demo_jobs(DemosSlice(Subset.GOAL, (3, 7), 5, 3, ENV, workers=4), tmp_path)
        assert set(few) <= set(many)

    def test_a_file_says_what_its_task_is(self):
        info = task_info(Subset.OBJECT, 0, 128)
        assert info.problem_name == "LIBERO_Floor_Manipulation"
        assert info.instruction == "pick up the alphabet soup and place it in the basket"
        assert info.bddl_file_name == "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket.bddl"


LOST = Outcome((FailedAttempt(7, "no free grasp of plate_1"), FailedAttempt(8, "dropped it")))


@pytest.fixture
def fake(monkeypatch):
    """No simulator: `fake(lost)` lets the demonstrations (task, demo) in `lost` fail; returns what was tried."""

    def install(lost):
        tried = []

        def make(env, episode, seed, target, manner):
            tried.append((episode.task_id, episode.demo))
            if tried[-1] in lost:
                return LOST
            with h5py.File(target, "w") as file:
                file["demo/obs/ee_pos"] = np.linspace([0, 0, 0], [0.4, 0, episode.demo / 10], 9)
                file["demo"].attrs["num_samples"] = 9
            return Outcome((), 0, 9, 5, 0.01, 0.4, 1 + episode.demo)

        monkeypatch.setattr(demos, "make_demo", make)
        monkeypatch.setattr(demos.DemoMaker, "_environment", lambda *_: None)
        return tried

    return install


def test_a_task_that_the_expert_cannot_do_ends_the_stage_after_the_others_are_made(tmp_path, fake):
    config = replace(CONFIG, tasks=(3, 7), episodes_per_task=5)
    tried = fake({(3, demo) for demo in range(5)})
    context = StageContext(tmp_path, {})
    with pytest.raises(StageFailed) as failed:
        run_demos(config, context)
    for said in ("task 3 (open_the_top_drawer", "3 x no free grasp of plate_1", "'data.tasks.goal=[7]'", "keeps the 5"):
        assert said in str(failed.value)
    assert tried == [(3, 0), (3, 1), (3, 2), *((7, demo) for demo in range(5))]  # it is given up after three
    told = json.loads((tmp_path / "demos.json").read_text())["tasks"]
    assert [(task["made"], task["wanted"]) for task in told.values()] == [(0, 5), (5, 5)]
    assert table(json.loads((tmp_path / "demos.json").read_text()), context.remarks)[1].endswith("-")
    tried = fake({})
    assert len(run_demos(config, context)) == 3
    assert tried == [(3, demo) for demo in range(5)]  # what was made is kept


def test_a_demonstration_that_cannot_be_made_is_listed(tmp_path, fake):
    fake({(7, 0)})
    outputs = run_demos(replace(CONFIG, episodes_per_task=3), StageContext(tmp_path, {}))
    summary = json.loads((tmp_path / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert (summary["wanted"], summary["made"], summary["attempts"], summary["failed_attempts"]) == (3, 2, 4, 2)
    assert summary["failure_reasons"] == {"no free grasp of plate_1": 1, "dropped it": 1}
    assert summary["demos"]["demo_0"]["failed"][0] == {"seed": 7, "reason": "no free grasp of plate_1"}
    assert summary["with_regrasp"] == 1
    assert list_demos(tmp_path / outputs[0]) == [1, 2]


def test_a_start_too_near_to_an_official_state_is_drawn_again(tmp_path, monkeypatch):
    distances = iter([0.0, 0.0019, 0.0021])
    monkeypatch.setattr(demonstration, "sample_start", lambda env, seed: np.zeros(3))
    monkeypatch.setattr(demonstration, "distance_to_official", lambda env, state: next(distances, 0.0))
    monkeypatch.setattr(demonstration, "play", lambda *_: SimpleNamespace(success=False, reason="dropped it"))
    episode = EpisodeId(Subset.GOAL, 7, 0)
    outcome = demonstration.make_demo(None, episode, 3, tmp_path / "x", Manner())
    assert outcome.refused_starts == demonstration.MAX_STARTS - 1
    assert outcome.failed[0] == FailedAttempt(attempt_seed(episode, 3, 2), "dropped it")
    assert "63 of 64 sampled starts were refused" in outcome.failed[1].reason


# ------------------------------------------------------------------ in the simulator

KILLED_RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from data_pipeline.contract import StageContext
from data_pipeline.sim.demos import run_demos
from tests.data_pipeline.sim.test_demos import CONFIG
run_demos(replace(CONFIG, workers=2), StageContext(Path(sys.argv[1]), {}))
"""


def digests(folder, names):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stage, uninterrupted."""
    work = tmp_path_factory.mktemp("demos")
    return work, run_demos(CONFIG, StageContext(work, {}))


def children(pid):
    """Process ids of a process's children, theirs included."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in own] + [grandchild for child in own for grandchild in children(child)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_two_workers_killed_with_their_driver_and_resumed_give_the_bytes_of_one(made, tmp_path):
    work, outputs = made
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(tmp_path)], cwd=ROOT)
    parts = tmp_path / "parts" / "07"
    wait_until(lambda: process.poll() is not None or any(parts.glob("*.json")), 600)  # a starved machine is slow
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    wait_until(lambda: not any(map(alive, workers)), 5)
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 1 <= len(finished) < CONFIG.episodes_per_task
    assert not (tmp_path / outputs[0]).exists()
    assert run_demos(replace(CONFIG, workers=2), StageContext(tmp_path, {})) == outputs
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())  # not made again
    assert digests(tmp_path, outputs) == digests(work, outputs)


@pytest.mark.sim
def test_pictures_drawn_from_states_are_those_of_the_episode():
    from data_pipeline.sim.environment import LiberoEnv
    from data_pipeline.sim.expert.expert import expert_actions

    env = LiberoEnv(Subset.GOAL, 7, ENV)  # the stove's flame comes and goes with the knob
    try:
        demonstration.sample_start(env, 5)
        env.settle(demonstration.SETTLE_STEPS)
        states, live = [], []
        for action in expert_actions(env, np.random.default_rng(5)):
            states.append(env.state())
            live.append([env.render(camera) for camera in CAMERAS])
            if env.step(action):
                break
        states.append(env.state())
        live.append([env.render(camera) for camera in CAMERAS])
        assert len(states) > 30
        for state, pictures in zip(reversed(states), reversed(live), strict=True):
            env.show(state)
            for camera, picture in zip(CAMERAS, pictures, strict=True):
                assert np.array_equal(env.render(camera), picture)
    finally:
        env.close()


def test_a_demonstration_whose_outcome_is_torn_is_not_done(tmp_path):
    job = demo_jobs(CONFIG, tmp_path)[0]
    job.part.parent.mkdir()
    assert not job.done
    job.outcome_file.write_text('{"outcome": {"st')
    assert not job.done
    job.outcome_file.write_text('{"outcome": {}, "seconds": 1.0}')
    assert job.done


@pytest.mark.sim
def test_an_attempt_in_which_the_physics_blows_up_has_failed():
    from data_pipeline.contract import SimulationUnstableError

    class Env:
        def settle(self, steps):
            raise SimulationUnstableError("turn_on_the_stove: the simulation became unstable")

    attempt = demonstration.play(Env(), 0, 300, demonstration.Recorder(Env()), Manner())
    assert not attempt.success
    assert "became unstable" in attempt.reason


@pytest.mark.sim
def test_the_files_hold_clean_successful_demonstrations(made):
    work, outputs = made
    assert outputs == ["turn_on_the_stove_demo.hdf5", "demos.json"]
    source = Hdf5Source(work, Subset.GOAL)
    assert [str(e) for e in source.list()] == ["goal/07/000", "goal/07/001", "goal/07/002"]
    for episode in map(source.open, source.list()):
        assert episode.success
        assert not noop_mask(episode.actions).any()
        assert episode.frames(AGENTVIEW).shape == (episode.num_steps, 64, 64, 3)
        assert episode.frames(WRIST).std() > 5  # not blank
        assert episode.fingerprint["look"] == "light"
    summary = json.loads((work / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert (summary["wanted"], summary["made"]) == (3, 3)
    assert 0.05 < summary["hand_speed_m_s"] < 1
    assert summary["hand_spread_m"] > 1e-3  # not one trajectory


@pytest.mark.sim
def test_no_demonstration_starts_from_an_official_state_and_all_replay_exactly(made):
    from data_pipeline.sim.environment import LiberoEnv

    work, outputs = made
    summary = json.loads((work / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert summary["min_distance_to_official_m"] >= demonstration.MIN_START_DISTANCE_M
    start = read_replay(work / outputs[0], 1)
    assert list(dict.fromkeys(start.expert_phases))[:3] == [f"{v} flat_stove_1" for v in ("reach", "grasp", "turnon")]
    env = LiberoEnv(Subset.GOAL, 7, ENV)
    try:
        official = np.stack([env.init_state(i) for i in range(env.num_init_states)])
        assert np.abs(official[:, 1:8] - start.init_state[1:8]).max(axis=1).min() > 1e-4
        env.reset(start.seed, start.init_state)
        env.settle(start.settle_steps)
        for stored, action in zip(start.states, start.actions, strict=True):
            assert np.abs(env.state() - stored).max() < 1e-9
            done = env.step(action)
        assert done
    finally:
        env.close()
