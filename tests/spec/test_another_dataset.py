"""The blocks of docs/another_dataset.md, run in order: list, open, statistics, a sample, then the commands' stages."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import CAMERAS, EpisodeSource
from data_pipeline.raw_loader import Hdf5Source
from experiment.cli import main
from experiment.store import Store
from tests.helpers.synthetic import make_record

PAGE = Path(__file__).parents[2] / "docs" / "another_dataset.md"
STEPS = 20


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of .npz files as the page describes them: tasks 0 and 3, five demonstrations each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "npz").mkdir()
    for task in (0, 3):
        for demo in range(5):
            record = make_record(np.random.default_rng((task, demo)), steps=STEPS, size=16)
            actions = record.actions.copy()
            actions[:, 6] = actions[:, 6] < 0
            observed = record.observations
            np.savez(
                tmp_path / "npz" / f"task{task}_demo{demo}.npz",
                actions=actions,
                proprio=np.concatenate([observed["ee_states"], observed["gripper_states"]], axis=1),
                front=record.images["agentview"][:, ::-1],
                wrist=record.images["robot0_eye_in_hand"][:, ::-1],
            )
    return tmp_path


def test_the_page_runs_from_npz_to_statistics_of_the_commands(project):
    names = {}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    source: EpisodeSource = names["source"]
    assert [str(episode) for episode in source.list()][::5] == ["object/00/000", "object/03/000"]
    assert len(names["split"].test) == 2
    sample = names["sample"]
    assert (sample.image.shape, sample.parts["action"].shape) == ((224, 224, 3), (5, 7))
    assert sample.instruction == "pick up the alphabet soup and place it in the basket"
    written = Hdf5Source(project / "data" / "libero_object_clean", Subset.OBJECT)
    assert written.list() == source.list()
    for episode in source.list():
        given, stored = source.open(episode), written.open(episode)
        np.testing.assert_array_equal(given.actions, stored.actions)
        np.testing.assert_array_equal(given.proprio, stored.proprio)
        assert set(given.actions[:, 6]) == {-1.0, 1.0}
        assert stored.states is None
        original = make_record(np.random.default_rng((episode.task_id, episode.demo)), steps=STEPS, size=16)
        for camera in CAMERAS:
            np.testing.assert_array_equal(stored.frames(camera), original.images[camera])
    (command,) = blocks("bash")
    assert main("run_experiment", shlex.split(command)[2:]) == 0
    store = Store(project / "outputs" / ".store")
    assert [len(store.manifests(stage)) for stage in ("official", "regenerate", "split", "stats")] == [1, 0, 1, 1]
    (_, stats), *_ = store.manifests("stats")
    made = ActionStatistics.load(store.entry("stats", stats.key) / "dataset_statistics.json")
    np.testing.assert_array_equal(made.low, names["statistics"].low)


def test_the_source_is_about_forty_lines():
    assert len(blocks("python")[0].splitlines()) <= 50
