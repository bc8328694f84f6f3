"""What annotations.json says beside the reasoning: events, segments, goals; all as the published schema has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_pipeline.annotation_schema import check_annotations
from data_pipeline.ecot_annotator import annotate, names_in_picture
from data_pipeline.gripper_positions import FUTURE_STEPS
from data_pipeline.measured import events, measured
from data_pipeline.segments import segment
from data_pipeline.sidecar import load_annotations, save_annotations
from tests.data_pipeline.test_annotator import CLOSE, RELEASE, drawer, pick_and_place


def test_events_of_a_pick_and_place() -> None:
    found = events(pick_and_place())
    assert [what for _, what, _ in found] == ["grasp", "lift", "holds", "release"]
    steps = {what: step for step, what, _ in found}
    assert CLOSE < steps["grasp"] == 40
    assert 42 < steps["lift"] < 46
    assert steps["holds"] == 100
    assert steps["release"] == RELEASE + 2
    assert found[2][2] == "in alphabet_soup_1 basket_1_contain_region"


def test_a_joint_starts_and_what_no_longer_holds_is_told() -> None:
    track = drawer()
    track.holds[110:] = False
    kinds = [(what, thing) for _, what, thing in events(track)]
    assert kinds[0] == ("joint starts", "wooden_cabinet_1_top_region")
    assert [what for what, _ in kinds[1:]] == ["holds", "no longer holds"]
    assert events(track)[-1][0] == 110


def test_a_release_by_the_end_of_the_recording_is_no_event() -> None:
    track = pick_and_place()
    cut = replace(track, **{n: v[:105] for n, v in vars(track).items() if isinstance(v, np.ndarray)})
    assert [what for _, what, _ in events(cut)] == ["grasp", "lift", "holds"]


def test_the_file_says_all_of_it_and_fits_its_schema(tmp_path: Path) -> None:
    track = pick_and_place()
    track.grip_visible[50:60] = False
    track.grip_visible[0] = False
    annotation, parts = annotate(track, 12), segment(track)
    further = measured(track, parts, [f"part {n}" for n in range(len(parts))])
    path = tmp_path / "annotations.json"
    save_annotations(path, {track.episode: annotation}, measured={track.episode: further})
    tree = json.loads(path.read_text())
    check_annotations(path, tree)
    assert load_annotations(path)[track.episode] == annotation
    features = tree["object/00"]["0"]["features"]
    assert features["gripper_position"][7] == [7, 7]
    seen = [track.grip_visible[min(40 + ahead, 124)] for ahead in FUTURE_STEPS]
    assert features["gripper_future_visible"][40] == seen
    assert seen == [True, True, False, False, True]
    remaining = [part["subtask"] for part in features["segments"] if part["stop"] > 70]
    assert remaining == ["part 3", "part 4", "part 5"], "the plan that is left"
    (goal,) = features["goals"]
    assert goal["holds"] == [[100, 125]]
    assert goal["predicate"] == ["in", "alphabet_soup_1", "basket_1_contain_region"]
    assert not goal["implied"]


def test_a_thing_with_twins_has_the_instructions_relation_in_its_name() -> None:
    bowl = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    assert names_in_picture(("black bowl", "plate"), bowl) == ("black bowl between the plate and the ramekin", "plate")
    soup = "pick up the alphabet soup and place it in the basket"
    assert names_in_picture(("alphabet soup", "basket"), soup) == ("alphabet soup", "basket")
    plain = "put both moka pots on the stove"
    assert names_in_picture(("left moka pot", "right moka pot"), plain) == ("left moka pot", "right moka pot")
