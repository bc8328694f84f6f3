"""Stage `demos`: identity of a demonstration, resumption, and what the files hold."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from configs.schema import ConfigError, EnvConfig, Look, Subset
from configs.slices import DemosSlice
from data_pipeline.contract import AGENTVIEW, WRIST, EpisodeId, StageContext
from data_pipeline.hdf5_reading import list_demos
from data_pipeline.raw_loader import Hdf5Source, read_replay
from data_pipeline.replay import noop_mask
from data_pipeline.sim import demos
from data_pipeline.sim.demos import FailedAttempt, Outcome, attempt_seed, demo_jobs, run_demos, task_info
from data_pipeline.sim.pool import run_jobs

ROOT = Path(__file__).parents[3]
ENV = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
CONFIG = DemosSlice(Subset.GOAL, (7,), episodes_per_task=2, seed=3, env=ENV)


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


def test_a_task_that_the_expert_cannot_do_stops_the_stage_with_its_reasons(tmp_path, monkeypatch):
    lost = Outcome(0, -1, -1.0, (FailedAttempt(7, "no free grasp of plate_1"),))
    monkeypatch.setattr(demos, "make_demo", lambda *_: lost)
    monkeypatch.setattr(demos.DemoMaker, "_environment", lambda *_: None)
    with pytest.raises(ConfigError, match=r"no free grasp of plate_1.*data\.tasks\.goal"):
        run_demos(CONFIG, StageContext(tmp_path, {}))


def test_a_single_demonstration_that_cannot_be_made_is_listed(tmp_path, monkeypatch):
    def make(env, episode, seed, target):
        if episode.demo == 1:
            return Outcome(0, -1, -1.0, (FailedAttempt(7, "no free grasp of plate_1"),))
        with h5py.File(target, "w") as file:
            file.create_group("demo").attrs["num_samples"] = 9
        return Outcome(9, 5, 0.01, ())

    monkeypatch.setattr(demos, "make_demo", make)
    monkeypatch.setattr(demos.DemoMaker, "_environment", lambda *_: None)
    outputs = run_demos(CONFIG, StageContext(tmp_path, {}))
    summary = json.loads((tmp_path / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert (summary["wanted"], summary["made"]) == (2, 1)
    assert summary["demos"]["demo_1"]["failed"][0]["reason"] == "no free grasp of plate_1"
    assert list_demos(tmp_path / outputs[0]) == [0]


class FileJob:
    def __init__(self, path):
        self.path = path

    @property
    def done(self):
        return self.path.exists()


class DiesOnce:
    """A worker whose process dies in the middle of the first job it ever does."""

    def run(self, job):
        crashed = job.path.parent / "crashed"
        if not crashed.exists():
            crashed.touch()
            os._exit(1)
        job.path.touch()

    def close(self):
        pass


def test_a_pool_survives_the_death_of_a_worker(tmp_path):
    jobs = [FileJob(tmp_path / str(i)) for i in range(3)]
    run_jobs(jobs, DiesOnce, 2, StageContext(tmp_path, {}), lambda job: job.path.name)
    assert all(job.done for job in jobs)
    assert (tmp_path / "crashed").exists()


# ------------------------------------------------------------------ in the simulator

KILLED_RUN = """
import sys
from pathlib import Path
from data_pipeline.contract import StageContext
from data_pipeline.sim.demos import run_demos
from tests.data_pipeline.sim.test_demos import CONFIG
run_demos(CONFIG, StageContext(Path(sys.argv[1]), {}))
"""


def digests(folder, names):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stage, uninterrupted."""
    work = tmp_path_factory.mktemp("demos")
    return work, run_demos(CONFIG, StageContext(work, {}))


@pytest.mark.sim
def test_a_killed_and_resumed_stage_gives_the_same_bytes(made, tmp_path):
    work, outputs = made
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(tmp_path)], cwd=ROOT)
    first = tmp_path / "parts" / "07" / "0000.json"
    deadline = time.monotonic() + 90
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists()
    assert not (tmp_path / outputs[0]).exists()
    changed = first.stat().st_mtime_ns
    assert run_demos(CONFIG, StageContext(tmp_path, {})) == outputs
    assert first.stat().st_mtime_ns == changed  # what was finished is not made again
    assert digests(tmp_path, outputs) == digests(work, outputs)


@pytest.mark.sim
def test_the_files_hold_clean_successful_demonstrations(made):
    work, outputs = made
    assert outputs == ["turn_on_the_stove_demo.hdf5", "demos.json"]
    source = Hdf5Source(work, Subset.GOAL)
    assert [str(e) for e in source.list()] == ["goal/07/000", "goal/07/001"]
    for episode in map(source.open, source.list()):
        assert episode.success
        assert not noop_mask(episode.actions).any()
        assert episode.frames(AGENTVIEW).shape == (episode.num_steps, 64, 64, 3)
        assert episode.frames(WRIST).std() > 5  # not blank
        assert episode.fingerprint["look"] == "light"
    summary = json.loads((work / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert (summary["wanted"], summary["made"]) == (2, 2)


@pytest.mark.sim
def test_no_demonstration_starts_from_an_official_state_and_all_replay_exactly(made):
    from data_pipeline.sim.environment import LiberoEnv

    work, outputs = made
    summary = json.loads((work / "demos.json").read_text())["tasks"]["turn_on_the_stove"]
    assert summary["min_distance_to_official_m"] > 1e-3
    start = read_replay(work / outputs[0], 1)
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
