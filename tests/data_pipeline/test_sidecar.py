"""Sidecars: what is saved is what is loaded; the same values give the same bytes; torn files say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.choices import Subset
from data_pipeline.contract import Annotation, BoundingBox, EnvironmentProblem, EpisodeId, StepReasoning
from data_pipeline.flow_tokens import load_flow_tokens
from data_pipeline.sidecar import load_annotations, save_annotations

EPISODE = EpisodeId(Subset.OBJECT, 3, 17)
coordinate = st.integers(0, 255)
boxes = st.builds(BoundingBox, st.text(min_size=1, max_size=8), coordinate, coordinate, coordinate, coordinate)
reasoning = st.builds(
    StepReasoning,
    task=st.text(max_size=20),
    plan=st.text(max_size=20),
    visible_objects=st.lists(boxes, max_size=3).map(tuple),
    subtask_reasoning=st.text(max_size=20),
    subtask=st.text(max_size=20),
    move_reasoning=st.text(max_size=20),
    move=st.text(max_size=20),
    gripper=st.one_of(st.just(()), st.tuples(*[st.tuples(coordinate, coordinate)] * 5)),
)


@given(steps=st.lists(reasoning, max_size=4), demo=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_annotations_round_trip(
    tmp_path_factory: pytest.TempPathFactory, steps: list[StepReasoning], demo: int
) -> None:
    path = tmp_path_factory.mktemp("sidecar") / "annotations.json"
    first = Annotation(EPISODE, tuple(steps), {"move": "rules", "bboxes": "sim"})
    other = Annotation(EpisodeId(Subset.LONG, 0, demo), tuple(steps), {"move": "rules"})
    save_annotations(path, {first.episode: first, other.episode: other}, files={EPISODE: "a_demo.hdf5"})
    assert load_annotations(path) == {other.episode: other, first.episode: first}


def test_layout_is_a_superset_of_embodied_cots(tmp_path: Path) -> None:
    step = StepReasoning(
        "t", "p", (BoundingBox("milk", 1, 2, 3, 4, visible=0.254),), "sr", "s", "mr", "move up", ((9, 8),) * 5
    )
    annotation = Annotation(EPISODE, (step,), {"move": "rules"})
    path = tmp_path / "annotations.json"
    save_annotations(
        path,
        {EPISODE: annotation},
        files={EPISODE: "x.hdf5"},
        measured={EPISODE: {"gripper_position": [[7, 6]], "events": []}},
    )
    entry = json.loads(path.read_text())["x.hdf5"]["17"]
    assert entry["features"]["move_primitive"] == ["move up"]
    assert entry["features"]["gripper_position"] == [[7, 6]], "where it is now, as embodied-CoT has it"
    assert entry["features"]["gripper_future"] == [[[9, 8]] * 5]
    assert entry["features"]["events"] == []
    assert entry["features"]["bboxes"] == [[[0.25, "milk", [1, 2, 3, 4]]]], "their reader unpacks (share, name, box)"
    assert entry["reasoning"]["0"]["move_reason"] == "mr"
    assert entry["source"] == {"move": "rules"}


@pytest.mark.parametrize(
    ("load", "command"), [(load_annotations, "generate_ecot"), (load_flow_tokens, "preprocess_flow")]
)
@pytest.mark.parametrize("content", [None, "", '{"manifest": {"k": 8}, "episo', "[]", '{"a": 3}', '{"a": {"0": {}}}'])
def test_missing_and_torn_files_name_the_file_and_the_command(tmp_path: Path, load, command, content) -> None:
    path = tmp_path / "sidecar.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EnvironmentProblem, match=rf"sidecar\.json.*{command}"):
        load(path)
