"""Recordings without simulator states: annotated from the robot alone, by the stage, and trained on."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from configs.data import AnnotatorConfig, EnvConfig
from configs.slices import AnnotateSlice
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.annotation_schema import check_annotations
from data_pipeline.contract import StageContext
from data_pipeline.ecot_annotator import run_annotate
from data_pipeline.hdf5_layout import DemoWriter, TaskInfo
from data_pipeline.libero_utils import demo_file, instruction, task_names
from data_pipeline.llm_annotator import demos_of
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from tests.helpers.synthetic import make_record, write_split_and_stats
from tests.helpers.tiny_adapter import SMALL, TEXT_COT
from tests.training.test_layout import layout_of, reader
from training.dataset import load_training_data
from training.layout import spans

STEPS = 40
NAME = task_names(Subset.OBJECT)[0]
WITHOUT_SCENE = {"plan", "visible_objects", "subtask_reasoning", "subtask", "gripper"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings with no `states`; the hand goes 0.4 m ahead and the fingers close half-way."""
    path = tmp_path_factory.mktemp("recorded")
    with DemoWriter(demo_file(path, Subset.OBJECT, 0), TaskInfo(NAME, instruction(NAME))) as writer:
        for demo in range(2):
            actions = np.zeros((STEPS, 7))
            actions[:, 0] = 0.2
            actions[:, 6] = np.where(np.arange(STEPS) < 20, -1, 1)
            record = make_record(np.random.default_rng(demo), size=56, actions=actions)
            writer.add(demo, replace(record, states=None))
    return path


@pytest.fixture(scope="module")
def annotated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """annotations.json of the stage."""
    work = tmp_path_factory.mktemp("annotate")
    config = AnnotateSlice(Subset.OBJECT, AnnotatorConfig(), EnvConfig())
    assert run_annotate(config, StageContext(work, {"regenerate": folder})) == ["annotations.json"]
    return work / "annotations.json", (work / "annotations.json").read_text(encoding="utf-8")


def test_one_line_says_what_is_absent(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "data_pipeline.sim.features", None)  # importing it would fail
    config = AnnotateSlice(Subset.OBJECT, AnnotatorConfig(), EnvConfig())
    run_annotate(config, StageContext(tmp_path, {"regenerate": folder}))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2 of 2 demonstrations of object have no simulator states: annotated from proprioception")
    assert line.endswith("gripper_position, plan, subtask, subtask_reasoning, visible_objects")


def test_nothing_that_needs_a_scene_is_in_the_file(annotated: tuple[Path, str]) -> None:
    path, text = annotated
    tree = json.loads(text)
    check_annotations(path, tree)
    entry = tree[f"{NAME}_demo.hdf5"]["0"]
    assert set(entry["features"]) == {"move_primitive", "state_3d"}
    assert {field for field, by in entry["source"].items() if by == "absent: no simulator states"} == WITHOUT_SCENE
    assert entry["source"]["task"] == "instruction"
    assert entry["source"]["move"] == entry["source"]["move_reasoning"] == "proprioception"
    assert entry["features"]["state_3d"][3][0] == pytest.approx(0.04)


def test_moves_and_reasons_are_those_of_the_robot(annotated: tuple[Path, str]) -> None:
    first, _ = load_annotations(annotated[0]).values()
    steps = [step for step in first.steps if step is not None]
    assert len(steps) == STEPS
    assert {step.task for step in steps} == {"pick up the alphabet soup and place it in the basket"}
    assert steps[5].move == "move forward"
    assert steps[5].move_reasoning == "the fingers close 15 cm ahead"
    assert "close gripper" in steps[20].move
    assert steps[20].move_reasoning == "the fingers close here"
    assert steps[30].move_reasoning == "the fingers stay closed"


def test_training_leaves_the_absent_tags_out(
    annotated: tuple[Path, str], folder: Path, base: Path, tmp_path: Path
) -> None:
    write_split_and_stats(folder, tmp_path, Subset.OBJECT)
    source = Hdf5Source(folder, Subset.OBJECT)
    data = load_training_data(
        [source.open(e) for e in source.list()],
        {Subset.OBJECT: ActionStatistics.load(tmp_path / "dataset_statistics.json")},
        horizon=8,
        image_size=SMALL.image_size,
        overflow=tmp_path / "frames",
        annotations=load_annotations(annotated[0]),
    )
    layout = layout_of(base, TEXT_COT)
    _, *reasoning, action = spans(layout, data.sample(5))
    text = reader(base, layout)([token for span in reasoning for token in span.ids])
    assert re.findall(r"([A-Z ]+):", text) == ["TASK", " MOVE REASONING", " MOVE", " ACTION"], text
    assert "TASK: pick up the alphabet soup" in text
    assert len(action.ids) > 1


def test_a_language_model_is_asked_only_about_what_is_there(annotated: tuple[Path, str]) -> None:
    for demo in demos_of(json.loads(annotated[1])):
        assert {item.field for item in (*demo.shared, *demo.items)} == {"task", "move_reason"}
        assert all(item.rules for item in (*demo.shared, *demo.items))
