"""The rules annotator on made-up tracks: segments, words, honesty of the numbers, equal bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from configs.choices import Subset
from data_pipeline.contract import POINT_GRID, EpisodeId
from data_pipeline.ecot_annotator import annotate, visible_objects
from data_pipeline.ecot_words import Words, arrivals, offset_phrase, unique_labels
from data_pipeline.scene import Goal, SceneTrack
from data_pipeline.segments import Segment, grasps, segment
from data_pipeline.templates import choose, label, part_label, region_phrase

CLOSE, RELEASE = 35, 110  # steps of the commands in `pick_and_place`


def pick_and_place() -> SceneTrack:
    """The hand goes to the soup (0.3 m ahead, on the floor), closes, lifts, carries it left, lowers it, lets go."""
    keys = [0, 30, 42, 60, 90, 105, 115, 125]
    waypoints = [[0, 0, 0.3], [0.3, 0, 0.05], [0.3, 0, 0.05], [0.3, 0, 0.25]]
    waypoints += [[0.3, 0.3, 0.25], [0.3, 0.3, 0.1], [0.3, 0.3, 0.1], [0.3, 0.3, 0.25]]
    time = np.arange(125)
    grip = np.stack([np.interp(time, keys, axis) for axis in np.array(waypoints).T], 1)
    held = (time >= 40) & (time < RELEASE + 2)
    soup = np.where(held[:, None], grip, np.where(time[:, None] < 40, grip[40], grip[RELEASE + 1]))
    basket = np.tile([0.3, 0.3, 0.05], (125, 1))
    goal = Goal("in", "alphabet_soup_1", "basket_1_contain_region")
    return SceneTrack(
        episode=EpisodeId(Subset.OBJECT, 0, 0),
        file="x_demo.hdf5",
        instruction="pick up the alphabet soup and place it in the basket",
        goals=(goal,),
        names=("alphabet_soup_1", "basket_1"),
        position=np.stack([soup, basket], 1),
        grasped=np.stack([held, np.zeros(125, bool)], 1),
        box=np.tile([[10.2, 20.0, 30.0, 40.5], [100.0, 100.0, 256.0, 150.0]], (125, 1, 1)),
        visible=np.ones((125, 2)),
        grip_position=grip,
        grip_rotation=np.tile(np.diag([1.0, -1.0, -1.0]), (125, 1, 1)),
        grip_point=np.stack([time, time], 1).astype(float),
        grip_visible=np.ones(125, bool),
        finger_opening=np.interp(time, [CLOSE, 40, RELEASE, RELEASE + 4], [0.08, 0.05, 0.05, 0.08]),
        gripper_command=np.where((time >= CLOSE) & (time < RELEASE), 1.0, -1.0),
        target=basket[:, None],
        holds=(time >= 100)[:, None],
        joint=np.full((125, 1), np.nan),
    )


def drawer(kind: str = "open") -> SceneTrack:
    """The hand goes to a handle and slides it 15 cm; no object is grasped."""
    base = pick_and_place()
    time = np.arange(125)
    joint = np.interp(time, [60, 100], [0, 0.15])[:, None]
    grip = base.grip_position.copy()
    grip[42:65] = grip[41]  # it waits at the handle
    return replace(
        base,
        goals=(Goal(kind, "wooden_cabinet_1_top_region"),),
        names=("wooden_cabinet_1",),
        position=base.position[:, 1:],
        grasped=np.zeros((125, 1), bool),
        grip_position=grip,
        box=base.box[:, 1:],
        visible=np.ones((125, 1)),
        gripper_command=np.where(time >= 50, 1.0, -1.0),
        finger_opening=np.interp(time, [50, 55], [0.08, 0.01]),
        holds=joint > 0.14,
        joint=joint,
    )


def test_segments_of_a_pick_and_place() -> None:
    parts = segment(pick_and_place())
    assert [p.kind for p in parts] == ["reach", "grasp", "lift", "move", "place", "retract"]
    assert parts[0].start == 0
    assert parts[-1].stop == 125
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    starts = {p.kind: p.start for p in parts}
    assert starts["grasp"] == CLOSE
    assert 42 <= starts["lift"] <= 45
    assert 57 <= starts["move"] <= 64
    assert 85 <= starts["place"] <= 91
    assert starts["retract"] == RELEASE + 2


def test_segments_of_a_drawer() -> None:
    parts = segment(drawer())
    assert [p.kind for p in parts] == ["reach handle", "grasp handle", "open", "retract"]
    assert [p.start for p in parts][1] == 50
    assert parts[2].start == 60


def test_a_drawer_that_is_shaken_has_not_started() -> None:
    track = drawer()
    track.joint[20:30] = -0.012  # pushed in by a hand that passes
    assert segment(track)[2].start == 60


def test_a_hand_that_rests_or_goes_another_way_has_turned_to_the_next_thing() -> None:
    track = dropped_and_grasped_again(at=0.26)
    for start, stop in ((112, 118), (118, 130)):  # up by 12 cm, then a rest, then up again
        track.grip_position[start:stop] = track.grip_position[112]
    track.grip_position[112:118, 2] += np.linspace(0, 0.12, 6)
    track.grip_position[118:130, 2] += 0.12
    assert segment(track)[5].stop == 129
    track.grip_position[120:130, 1] -= np.linspace(0, 0.2, 10)
    assert segment(track)[5].stop == 120


def test_an_arm_that_swings_while_it_lifts_does_not_carry_yet() -> None:
    track = pick_and_place()
    lifting = (track.position[:, 0, 2] > 0.07) & (np.arange(125) < 52)
    track.position[lifting, 0, 0] -= 0.04
    assert {p.kind: p.start for p in segment(track)}["move"] >= 52


def test_a_fist_that_pushes_grasps_no_handle() -> None:
    track = drawer("close")
    track.gripper_command[:] = -1
    track.gripper_command[10:] = 1  # closed on the way
    assert [p.kind for p in segment(track)] == ["reach handle", "close", "retract"]


def test_a_thing_in_a_pushed_drawer_is_not_grasped_again() -> None:
    track = dropped_and_grasped_again(at=0.3)
    track.position[125:, 0, 2] = track.position[124, 0, 2]  # touched and moved, never lifted
    assert [p.kind for p in segment(track)] == ["reach", "grasp", "lift", "move", "place", "retract"]


def test_a_goal_that_only_the_last_action_reaches_has_no_retract() -> None:
    track = pick_and_place()
    cut = SceneTrack(**{n: v[:105] if isinstance(v, np.ndarray) else v for n, v in vars(track).items()})
    cut = replace(cut, holds=np.zeros((105, 1), bool))
    assert [p.kind for p in segment(cut)][-1] == "place"


def test_something_pushed_is_not_lifted() -> None:
    track = pick_and_place()
    slid = track.position * [1, 1, 0]
    parts = segment(replace(track, grasped=np.zeros_like(track.grasped), position=slid))
    assert [p.kind for p in parts] == ["reach", "push", "retract"]


def test_an_episode_without_any_event_is_one_reach() -> None:
    track = pick_and_place()
    idle = replace(track, grasped=np.zeros_like(track.grasped), position=np.tile(track.position[:1], (125, 1, 1)))
    assert [(p.kind, p.start, p.stop) for p in segment(idle)] == [("reach", 0, 125)]


def test_goals_are_told_in_the_order_of_the_episode() -> None:
    one, two = pick_and_place(), drawer()
    both = replace(
        one,
        goals=(one.goals[0], two.goals[0]),
        names=(*one.names, *two.names),
        position=np.concatenate([one.position, two.position], 1),
        grasped=np.concatenate([one.grasped, two.grasped], 1),
        box=np.concatenate([one.box, two.box], 1),
        visible=np.ones((125, 3)),
        target=np.concatenate([one.target, two.target], 1),
        holds=np.concatenate([one.holds, np.arange(125)[:, None] >= 25], 1),
        joint=np.concatenate([one.joint, np.interp(np.arange(125), [10, 25], [0, 0.15])[:, None]], 1),
    )
    both.holds[0, 1] = False
    assert segment(both)[0].goal == 1
    step = annotate(both, 12).steps[0]
    assert step.task == "open the top drawer of the cabinet and put the alphabet soup in the basket"
    assert step.plan == "open the top drawer of the cabinet, then put the alphabet soup in the basket"


def told(*goals: Goal, names: tuple[str, ...], kinds: tuple[str, ...] = ("place",) * 2) -> str:
    track = replace(pick_and_place(), goals=goals, names=names, position=np.zeros((125, len(names), 3)))
    words = Words.of(track)
    return words.task(tuple(Segment(n, n + 1, kind, n) for n, kind in enumerate(kinds[: len(goals)])))


def test_what_was_just_named_is_not_named_again() -> None:
    drawer, stove = "wooden_cabinet_1_top_region", Goal("turnon", "flat_stove_1")
    bowl, pot = "akita_black_bowl_1", Goal("on", "moka_pot_1", "flat_stove_1_cook_region")
    inside, cabinet = Goal("in", bowl, drawer), (bowl, "wooden_cabinet_1")
    assert (
        told(Goal("open", drawer), inside, names=cabinet)
        == "open the top drawer of the cabinet and put the black bowl in it"
    )
    assert told(inside, Goal("close", drawer), names=cabinet).endswith("in the top drawer of the cabinet and close it")
    assert told(stove, pot, names=("moka_pot_1", "flat_stove_1")) == "turn on the stove and put the moka pot on it"
    both = (Goal("in", "milk_1", "basket_1_contain_region"), Goal("in", "butter_1", "basket_1_contain_region"))
    assert told(*both, names=("milk_1", "butter_1", "basket_1")) == "put the milk and the butter in the basket"


def test_what_is_pushed_is_not_put() -> None:
    plate = Goal("on", "plate_1", "main_table_stove_front_region")
    names = ("plate_1", "flat_stove_1")
    assert told(plate, names=names, kinds=("push",)) == "push the plate to the front of the stove"
    assert told(plate, names=names) == "put the plate in front of the stove"


def test_a_grasp_outlasts_slips_of_the_pads_and_brief_touches_are_none() -> None:
    track = pick_and_place()
    assert grasps(track, 0) == [(40, RELEASE + 2)]
    track.grasped[60:75, 0] = False
    assert grasps(track, 0) == [(40, RELEASE + 2)]
    track.grasped[:, 0] = False
    track.grasped[36, 0] = True
    ((start, stop),) = grasps(track, 0)  # no pad touches it, but it is carried
    assert 42 <= start <= 45
    assert 100 <= stop <= 106
    assert grasps(track, 1) == []


def test_what_is_said_is_what_was_measured() -> None:
    steps = annotate(pick_and_place(), 12).steps
    assert steps[0].task == "put the alphabet soup in the basket"
    assert steps[0].plan.startswith(
        "reach the alphabet soup, grasp it, lift it, carry it to the basket, place it in the basket"
    )
    assert steps[0].subtask == "reach the alphabet soup"
    assert steps[0].move_reasoning.endswith("is 30 cm ahead and 25 cm below")
    assert steps[0].move == "move forward down"
    assert "close gripper" in steps[CLOSE].move
    assert steps[CLOSE].subtask == "grasp the alphabet soup"
    assert steps[43].move_reasoning in ("it has to rise 17 cm", "it is 17 cm too low")
    lifted = next(p.stop for p in segment(pick_and_place()) if p.kind == "lift") - 1
    assert steps[lifted].move_reasoning in ("it is high enough", "it is lifted")
    assert steps[70].subtask == "carry the alphabet soup to the basket"
    assert steps[70].move_reasoning.endswith("20 cm left and 15 cm below"), (
        "where it is let go, not the basket's middle"
    )
    assert steps[70].move == "move left"
    assert "open gripper" in steps[RELEASE].move
    assert annotate(drawer(), 12).steps[80].move_reasoning in ("it has to slide 8 cm", "it still has 8 cm to slide")


def dropped_and_grasped_again(at: float) -> SceneTrack:
    """`pick_and_place`, but the thing is let go at `at` m to the left, and a second grasp brings it to the basket."""
    first, second = pick_and_place(), pick_and_place()
    one, two = first.position.copy(), second.position.copy()
    one[:, 0, 1] *= at / 0.3
    two[:40, 0] = one[-1, 0]
    joined = {
        name: np.concatenate([value, getattr(second, name)])
        for name, value in vars(first).items()
        if isinstance(value, np.ndarray)
    }
    joined |= {"position": np.concatenate([one, two]), "holds": (np.arange(250) >= 230)[:, None]}
    return replace(first, **joined)


def test_a_thing_that_slips_is_placed_again() -> None:
    parts = segment(dropped_and_grasped_again(at=0.26))
    once = ["reach", "grasp", "lift", "move", "place", "retract"]
    assert [p.kind for p in parts] == once * 2
    assert parts[5].stop == 124, "the hand rises, then turns"
    step = annotate(dropped_and_grasped_again(at=0.26), 12).steps[0]
    assert step.plan.count("grasp it") == 1


def test_what_is_let_go_far_from_its_target_is_set_aside() -> None:
    track = dropped_and_grasped_again(at=0.1)
    parts = segment(track)
    assert [p.kind for p in parts][:6] == ["reach", "grasp", "lift", "set aside", "retract", "reach"]
    steps = annotate(track, 12).steps
    assert steps[80].subtask == "set the alphabet soup aside"
    assert "cm" not in steps[80].move_reasoning, "it is not on its way to its place"
    assert steps[0].plan.startswith("reach the alphabet soup, grasp it, lift it, set it aside, carry it to the basket")


def test_opening_the_fingers_is_explained_by_what_was_before() -> None:
    def words(track: SceneTrack, step: int) -> str:
        assert "open gripper" in annotate(track, 12).steps[step].move
        return annotate(track, 12).steps[step].move_reasoning

    track = pick_and_place()
    assert words(track, RELEASE + 3) in ("it can be let go", "the fingers let it go")
    track.gripper_command[10:20] = 1  # closed for nothing, and opened again
    track.finger_opening[10:20] = 0.01
    assert words(track, 20) in ("the grip has to be tried again", "it is not in the grip")
    track = pick_and_place()
    track.gripper_command[:10] = 1  # starts closed
    track.finger_opening[:10] = 0.01
    assert words(track, 10) in ("the fingers have to be open", "only open fingers can reach around it")


def test_offsets_end_where_the_hand_grips_and_lets_go() -> None:
    track = pick_and_place()
    track.position[:, 0, 1] -= 0.05  # gripped by its rim
    steps, parts = annotate(track, 12).steps, segment(track)
    assert arrivals(parts, 125)[0] == CLOSE
    assert steps[0].move_reasoning.endswith("is 30 cm ahead and 25 cm below")
    assert steps[CLOSE - 1].move_reasoning == "the gripper is at it"
    assert steps[RELEASE - 1].move_reasoning == "it is at its place"


def test_the_instruction_tells_things_alike_apart() -> None:
    sentence = "pick up the alphabet soup next to the milk and place it in the basket"
    assert annotate(replace(pick_and_place(), instruction=sentence), 12).steps[0].task == sentence


def test_sentences_stay_short() -> None:
    """Every token is decoded before the robot may move: tags and boxes apart, about 250 characters."""
    for track in (pick_and_place(), drawer(), drawer("close")):
        for step in annotate(track, 12).steps:
            spoken = (step.task, step.plan, step.subtask_reasoning, step.subtask, step.move_reasoning, step.move)
            assert sum(map(len, spoken)) < 330
            assert not any("{" in text or ":" in text or not text for text in spoken)


def test_the_same_track_gives_the_same_annotation() -> None:
    assert annotate(pick_and_place(), 12) == annotate(pick_and_place(), 12)
    assert annotate(pick_and_place(), 12).source["move"] == "rules"


def test_boxes_are_inclusive_grid_cells_and_hidden_things_are_left_out() -> None:
    track = pick_and_place()
    boxes = visible_objects(track, unique_labels(track), 0)
    assert [(b.name, b.x0, b.y0, b.x1, b.y1) for b in boxes] == [
        ("alphabet soup", 10, 20, 29, 40),
        ("basket", 100, 100, POINT_GRID - 1, 149),
    ]
    track.visible[0, 0] = 0.05
    track.box[0, 1] = np.nan
    assert visible_objects(track, unique_labels(track), 0) == ()


def test_two_of_a_kind_are_left_and_right() -> None:
    track = replace(pick_and_place(), names=("moka_pot_1", "moka_pot_2"), goals=())
    track.position[0, :, 1] = [-0.1, 0.2]
    assert unique_labels(track) == ("right moka pot", "left moka pot")


def test_two_of_a_kind_are_called_as_the_instruction_means_them() -> None:
    """Its left is that of the upright picture, which faces the robot: -y."""
    names = ("porcelain_mug_1", "plate_1", "plate_2")
    goal = Goal("on", "porcelain_mug_1", "plate_1")
    track = replace(pick_and_place(), names=names, goals=(goal,), position=np.zeros((125, 3, 3)))
    track.position[0, :, 1] = [0, -0.1, 0.2]
    assert unique_labels(replace(track, instruction="put the white mug on the plate"))[1:] == (
        "right plate",
        "left plate",
    )
    for side, other in (("left", "right"), ("right", "left")):
        said = replace(track, instruction=f"put the white mug on the {side} plate")
        assert unique_labels(said)[1:] == (f"{side} plate", f"{other} plate")
    pots = replace(
        track, names=("moka_pot_1", "moka_pot_2", "flat_stove_1"), instruction="put the left moka pot on the stove"
    )
    pots.position[0, :, 1] = [-0.1, 0.1, 0]
    goal = Goal("on", "moka_pot_1", "flat_stove_1_cook_region")
    assert unique_labels(replace(pots, goals=(goal,)))[:2] == ("left moka pot", "right moka pot")


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ([0.06, 0, -0.11], "6 cm ahead and 11 cm below"),
        ([-0.1, 0.2, 0.15], "10 cm behind, 20 cm left and 15 cm above"),
        ([0, -0.3, 0.02], "30 cm right"),
        ([0.01, 0.01, 0], ""),
    ],
)
def test_offsets_in_words(vector: list[float], words: str) -> None:
    assert offset_phrase(np.array(vector)) == words


@pytest.mark.parametrize(
    ("target", "owner", "predicate", "words"),
    [
        ("plate_1", "plate_1", "on", "on the plate"),
        ("akita_black_bowl_1", "akita_black_bowl_1", "on", "in the black bowl"),
        ("basket_1_contain_region", "basket_1", "in", "in the basket"),
        ("wooden_cabinet_1_top_region", "wooden_cabinet_1", "in", "in the top drawer of the cabinet"),
        ("wooden_cabinet_1_top_side", "wooden_cabinet_1", "on", "on top of the cabinet"),
        ("flat_stove_1_cook_region", "flat_stove_1", "on", "on the stove"),
        ("wine_rack_1_top_region", "wine_rack_1", "on", "on the rack"),
        ("desk_caddy_1_back_contain_region", "desk_caddy_1", "in", "in the back compartment of the caddy"),
        ("main_table_stove_front_region", "flat_stove_1", "on", "in front of the stove"),
        ("living_room_table_plate_right_region", "plate_1", "on", "to the right of the plate"),
        ("microwave_1_heating_region", "microwave_1", "in", "in the microwave"),
    ],
)
def test_every_kind_of_place_in_the_four_suites_has_words(target: str, owner: str, predicate: str, words: str) -> None:
    assert region_phrase(target, owner, label(owner), predicate) == words


def test_parts_and_choice() -> None:
    assert part_label("white_cabinet_1_bottom_region", "white_cabinet_1", "cabinet") == "bottom drawer of the cabinet"
    assert part_label("microwave_1", "microwave_1", "microwave") == "microwave"
    assert {choose("abc", demo) for demo in range(50)} == set("abc")
    assert choose("abc", 7) == choose("abc", 7)
