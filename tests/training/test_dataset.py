"""Samples: what a step offers, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.checks import ConfigError
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from tests.helpers.tiny_adapter import SMALL
from tests.helpers.training_study import Study
from training import dataset
from training.dataset import TrainingData, action_chunk, load_training_data


def test_a_chunk_repeats_the_last_action_past_the_end() -> None:
    actions = np.arange(14, dtype=np.float32).reshape(2, 7)
    assert (action_chunk(actions, 0, 3) == actions[[0, 1, 1]]).all()
    assert (action_chunk(actions, 1, 3) == actions[[1, 1, 1]]).all()


def test_samples_offer_every_part_and_no_flow_near_the_end(data: TrainingData) -> None:
    last = data.episodes[0]
    steps = len(last.actions)
    offered = [data.sample(number).parts for number in range(steps)]
    assert [p["flow"] is None for p in offered] == [min(8, steps - 1 - t) < 4 for t in range(steps)]
    assert all(p["action"].shape == (8, 7) and p["action"].dtype == np.float32 for p in offered)
    assert data.where(steps + 2) == (data.episodes[1].id, 2)


def test_frames_in_a_file_are_the_same_as_in_memory(
    study: Study, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY_BYTES", 0)
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = {study.subset: ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")}
    episodes = [source.open(e) for e in source.list()]
    stored = load_training_data(episodes, statistics, 8, SMALL.image_size, tmp_path / "frames.npy")
    assert isinstance(stored.frames, np.memmap)
    assert (stored.frames == data.frames).all()


def test_a_sidecar_that_does_not_fit_is_named(study: Study, tmp_path: Path) -> None:
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = {study.subset: ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")}
    episode = source.open(source.list()[0])
    annotations = load_annotations(study.folder / "annotations.json")
    with pytest.raises(ConfigError, match=f"no entry for {episode.id}"):
        load_training_data([episode], statistics, 8, 56, tmp_path / "f", annotations={})
    short = {episode.id: replace(annotations[episode.id], steps=annotations[episode.id].steps[:3])}
    with pytest.raises(ConfigError, match="have 3 steps"):
        load_training_data([episode], statistics, 8, 56, tmp_path / "f", annotations=short)
