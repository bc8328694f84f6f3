"""Demonstrations replay: ours to 1e-6 in another process and after a restart, official ones from states[0] and their
own model_file. One task per suite, two of them with a drawer; all but the first in the slow tier."""

import json
import multiprocessing

import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import DemosSlice, RegenerateSlice
from data_pipeline.contract import AGENTVIEW, EpisodeId, StageContext
from data_pipeline.libero_regenerator import make_libero_env, run_regenerate
from data_pipeline.libero_utils import demo_file
from data_pipeline.metainfo import metainfo_name, read_metainfo
from data_pipeline.raw_loader import Hdf5Source, read_replay
from data_pipeline.replay import max_deviation, replay
from data_pipeline.sim.demos import run_demos
from tests.helpers.official_style import FRAMES_LEFT_OUT, write_official_style

EXACT = 1e-6
ENV = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
TASKS = [
    (Subset.GOAL, 0),  # opens a drawer
    pytest.param((Subset.SPATIAL, 4), marks=pytest.mark.slow),  # out of a drawer
    pytest.param((Subset.OBJECT, 0), marks=pytest.mark.slow),
    pytest.param((Subset.LONG, 5), marks=pytest.mark.slow),
]
pytestmark = pytest.mark.sim


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: f"{task[0].value}-{task[1]}")
def made(request, tmp_path_factory):
    """One expert demonstration: its folder, subset and task."""
    subset, task = request.param
    folder = tmp_path_factory.mktemp("demos")
    run_demos(DemosSlice(subset, (task,), 1, 42, ENV), StageContext(folder, {}))
    return folder, subset, task


def regenerate(demos, work, subset):
    """The stage; returns its only verdict."""
    work.mkdir()
    run_regenerate(RegenerateSlice(subset, ENV), StageContext(work, {"demos": demos}))
    ((verdict,),) = (demos.values() for demos in read_metainfo(work / metainfo_name(subset)).values())
    return verdict


def replayed(subset, task, path):
    """(success, deviation) of a replay in a new simulator."""
    start = read_replay(path, 0)
    env = make_libero_env(subset, task, ENV)
    try:
        seen = replay(env, start, start.actions, ())
    finally:
        env.close()
    return seen.success, max_deviation(seen.states, start.states)


@pytest.mark.slow
def test_in_another_process_and_after_a_restart(made, tmp_path):
    folder, subset, task = made
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        verdict = pool.apply(regenerate, (folder, tmp_path / "there", subset))
    assert verdict.success
    assert verdict.images == "reused"
    assert verdict.noops_removed == 0
    assert verdict.max_state_deviation <= EXACT
    success, deviation = replayed(subset, task, demo_file(folder, subset, task))
    assert success
    assert deviation <= EXACT


def test_an_official_demonstration(made, tmp_path, capsys):
    folder, subset, task = made
    official = tmp_path / "official"
    official.mkdir()
    env = make_libero_env(subset, task, ENV)
    write_official_style(env, demo_file(folder, subset, task), 0, official / "task1.hdf5")
    positions = slice(1, 1 + env.model.nq)
    env.close()
    verdict = regenerate(official, tmp_path / "clean", subset)
    assert verdict.success
    assert verdict.images == "rendered"
    clean = Hdf5Source(tmp_path / "clean", subset)
    episode, ours = clean.open(EpisodeId(subset, task, 0)), Hdf5Source(folder, subset).open(EpisodeId(subset, task, 0))
    off = max_deviation(episode.states[:, positions], ours.states[FRAMES_LEFT_OUT:, positions])
    figures = {"steps": verdict.steps, "state_deviation": verdict.max_state_deviation, "position_deviation": off}
    with capsys.disabled():
        print("\n" + json.dumps({"replay": f"official style, {subset.value} {task}", **figures}))
    assert off < 0.02, "metres or radians"
    np.testing.assert_array_equal(episode.actions, ours.actions[FRAMES_LEFT_OUT:])
    difference = episode.frames(AGENTVIEW).astype(float) - ours.frames(AGENTVIEW)[FRAMES_LEFT_OUT:]
    assert np.abs(difference).mean() < 1
    assert replayed(subset, task, clean.path(task)) == (True, pytest.approx(0, abs=EXACT))
