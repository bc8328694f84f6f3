"""One small study and one base for the whole folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.action_stats import ActionStatistics
from data_pipeline.flow_tokens import load_flow_tokens
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from tests.helpers.tiny_adapter import SMALL
from tests.helpers.training_study import Study, write_study
from training.dataset import TrainingData, load_training_data


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def base(study: Study) -> Path:
    return study.inputs["base"] / "base"


@pytest.fixture(scope="session")
def data(study: Study) -> TrainingData:
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")
    return load_training_data(
        [source.open(e) for e in source.list()],
        {study.subset: statistics},
        horizon=8,
        image_size=SMALL.image_size,
        overflow=study.folder / "frames.npy",
        annotations=load_annotations(study.folder / "annotations.json"),
        flow=load_flow_tokens(study.folder / "flow_tokens.json"),
    )
