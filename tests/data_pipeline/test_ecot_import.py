"""embodied-CoT's published layouts, made small by hand after their writer and their reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.checks import ConfigError
from configs.choices import Component, Subset
from data_pipeline.annotation_schema import check_annotations
from data_pipeline.contract import BoundingBox, EpisodeId
from data_pipeline.ecot_import import import_annotations, is_ours, read_tree
from data_pipeline.sidecar import load_annotations, save_annotations
from tests.helpers.reasoned import write_reasoned
from training.reasoning_text import render_reasoning

FILE = "/data/libero/pick_up_the_alphabet_soup_and_place_it_in_the_basket_demo.hdf5"
EPISODE = EpisodeId(Subset.OBJECT, 0, 7)
STEPS = 30


def words(t: int) -> dict[str, Any]:
    return {
        "task": "Put the soup in the basket.",
        "plan": "Move to the soup.\n Grasp it.",
        "subtask": "Move to the soup.",
        "subtask_reason": f"It is {t} steps away.",
        "move": "move left",
        "move_reason": "The soup is on the left. ",
    }


def bridge(gripper: str = "gripper_position", **changes: Any) -> dict[str, Any]:
    """As full_reasonings.py writes it, with merged boxes."""
    features: dict[str, Any] = {
        "state_3d": [[0.1, 0.2, 0.3]] * STEPS,
        "move_primitive": ["move left"] * STEPS,
        gripper: [[2 * t, 3 * t] for t in range(STEPS)],
        "bboxes": [[[0.87, "alphabet soup [can]", [10.4, 20, 300, 40]]]] * STEPS,
    }
    entry = {
        "metadata": {"episode_id": "7", "file_path": FILE, "n_steps": STEPS, "language_instruction": "put it there"},
        "features": features,
        "reasoning": {str(t): words(t) for t in range(STEPS)},
    }
    return {FILE: {"7": {**entry, **changes}}}


def libero_90() -> dict[str, Any]:
    """No features, no task, numbered plans, other words for two keys, boxes by name."""
    steps = {
        str(t): {
            "plan": {"0": "move to the soup", "1": "grasp it"},
            "subtask": "move to the soup",
            "subtask_reasoning": "it is far",
            "movement": "move left",
            "movement_reasoning": "it is on the left",
            "bboxes": {"alphabet soup": [[1, 2], [3, 4]]},
        }
        for t in range(STEPS)
    }
    return {Path(FILE).name: {"7": steps}}


def imported(tree: dict[str, Any]) -> Any:
    return import_annotations(Path("theirs.json"), tree, Subset.OBJECT)


@pytest.mark.parametrize("gripper", ["gripper_position", "gripper_positions"])
def test_bridges_layout_with_their_writers_key_and_with_their_readers(gripper: str) -> None:
    found = imported(bridge(gripper))
    step = found.annotations[EPISODE].steps[3]
    assert step.plan == "Move to the soup. Grasp it."
    assert step.move_reasoning == "The soup is on the left."
    assert step.visible_objects == (BoundingBox("alphabet soup can", 10, 20, 255, 40),)
    assert step.visible_objects[0].visible == 0.87
    assert step.gripper == tuple((2 * t, 3 * t) for t in (7, 11, 15, 19, 23)), "their track is that of now"
    assert found.annotations[EPISODE].steps[29].gripper == ((58, 87),) * 5
    assert found.absent == ()
    assert found.lines() == ["embodied-CoT annotations: 1 demonstrations, 30 of 30 steps with reasoning"]


def test_libero_90s_layout_says_what_it_lacks() -> None:
    found = imported(libero_90())
    step = found.annotations[EPISODE].steps[3]
    assert step.plan == "move to the soup, grasp it"
    assert found.absent == (Component.TASK, Component.VISIBLE_OBJECTS, Component.GRIPPER_POSITION)
    text = render_reasoning(step)
    assert text.startswith("PLAN: move to the soup, grasp it SUBTASK REASONING: it is far SUBTASK:")
    assert not any(tag in text for tag in ("TASK: P", "VISIBLE OBJECTS", "GRIPPER POSITION"))
    assert found.lines()[1] == "absent, and never written: task, visible_objects, gripper_position"


def test_steps_without_words_have_no_reasoning_and_are_counted() -> None:
    reasoning = {str(t): words(t) for t in range(STEPS) if t != 4}
    reasoning["5"]["move_reason"] = ""
    reasoning["6"]["plan"] = "PLAN: do MOVE: left"
    reasoning["7"]["subtask"] = "reach <|im_end|>"
    steps = imported(bridge(reasoning=reasoning)).annotations[EPISODE].steps
    assert [t for t, step in enumerate(steps) if step is None] == [4, 5, 6, 7]
    assert imported(bridge(reasoning=reasoning)).lines()[1:] == [
        "left out: 2 steps whose text holds a tag or a control token",
        "left out: 2 steps without (whole) reasoning",
    ]


def test_a_track_or_boxes_that_are_null_are_absent() -> None:
    features = {"gripper_position": None, "bboxes": None}
    found = imported(bridge(features=features))
    assert found.absent == (Component.VISIBLE_OBJECTS, Component.GRIPPER_POSITION)


@pytest.mark.parametrize("tree", [bridge(), libero_90(), bridge(reasoning={"3": words(3)})])
def test_what_was_imported_is_a_file_of_ours(tree: dict[str, Any], tmp_path: Path) -> None:
    found = imported(tree)
    save_annotations(tmp_path / "a.json", found.annotations, files=found.files)
    assert load_annotations(tmp_path / "a.json") == found.annotations
    written = read_tree(tmp_path / "a.json")
    check_annotations(tmp_path / "a.json", written)
    assert is_ours(written)
    assert not is_ours(tree)
    entry = written[Path(FILE).name]["7"]
    assert entry["source"] == dict.fromkeys(sorted(c.value for c in Component if c not in found.absent), "embodied-CoT")
    assert "gripper_visible" not in entry["features"], "nobody measured it"
    assert ("bboxes" in entry["features"]) == (Component.VISIBLE_OBJECTS not in found.absent)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no demonstration of libero_object"),
        ({"KITCHEN_SCENE1_open_it_demo.hdf5": {"0": {}}}, "KITCHEN_SCENE1_open_it_demo.hdf5"),
        ({FILE: [1]}, "expected an object of episodes, found list"),
        ({FILE: {"demo_0": {}}}, "'demo_0' is no number of a demonstration"),
        ({FILE: {"0": "x"}}, "expected an object, found str"),
        ({FILE: {"0": {}}}, "no reasoning"),
    ],
)
def test_what_cannot_be_read_is_named(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        imported(tree)


def test_a_slip_of_the_pen_in_a_file_of_ours_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    tree = write_reasoned(path, demos=1)
    check_annotations(path, tree)
    (file,) = tree
    tree[file]["0"]["features"]["bboxes"][2][0][2][3] = 300
    with pytest.raises(ConfigError, match=r"0 > features > bboxes > 2 > 0 > 2 > 3: .*less than 256; see docs"):
        check_annotations(path, tree)
    del tree[file]["0"]["reasoning"]["1"]["move"]
    tree[file]["0"]["features"]["bboxes"] = []
    with pytest.raises(ConfigError, match="reasoning > 1 > move: Field required"):
        check_annotations(path, tree)


def test_the_published_schema_is_that_of_the_models(renew_golden: bool) -> None:
    from data_pipeline.annotation_schema import Annotations

    path = Path(__file__).parents[2] / "docs" / "annotations.schema.json"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Annotations.model_json_schema()}
    text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    if renew_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "renew with --renew-golden and read the diff"
