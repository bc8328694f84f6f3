"""Milestones of made-up traces."""

import numpy as np
import pytest

from data_pipeline.milestones import Trace, held, milestones
from data_pipeline.scene import Goal

STEPS = 30
PLACE = Goal("on", "cup_1", "plate_1")


def trace(*, height=None, part=None, sideways=None, touched=(), grasped=(), holds=(), goals=(PLACE,)):
    """A cup of which the test says where it is, and a plate that lies still; ranges are of steps."""
    flags = {
        name: np.isin(np.arange(STEPS), list(where))
        for name, where in (("touched", touched), ("grasped", grasped), ("holds", holds))
    }
    position = np.zeros((STEPS, 2, 3))
    position[:, 0, 2] = 0.0 if height is None else height
    position[:, 0, 0] = 0.0 if sideways is None else sideways
    position[:, 1, 0] = 0.4
    never = np.zeros(STEPS, bool)
    return Trace(
        objects=("cup_1", "plate_1"),
        goals=goals,
        stated=1,
        position=position,
        touched=np.stack([flags["touched"], never], 1),
        grasped=np.stack([flags["grasped"], never], 1),
        holds=np.stack([flags["holds"]] * len(goals), 1),
        subject_touched=np.stack([flags["touched"]] * len(goals), 1),
        subject_distance=np.full((STEPS, len(goals)), 0.123456),
        away=np.stack([np.abs(position[:, 0, 0] - 0.4)] * len(goals), 1),
        parts=("top_level",),
        part_touched=flags["touched"][:, None],
        part_moved=(np.zeros(STEPS) if part is None else part)[:, None],
        progress=np.full((STEPS, len(goals)), np.nan),
    )


def cup(**told):
    return milestones(trace(**told))["objects"]["cup_1"]


def ramp(*knots):
    """Height by (step, metres) knots."""
    return np.interp(np.arange(STEPS), *np.array(knots, float).T)


def test_nothing_happened():
    told = milestones(trace())
    assert set(told["objects"]) == {"cup_1"}  # subjects are always told, the plate did nothing
    assert told["objects"]["cup_1"] == {
        "touched": None,
        "grasped": None,
        "lifted": None,
        "moved": None,
        "dropped": None,
        "let_go": None,
        "fell_m": 0.0,
        "moved_m": 0.0,
        "held": False,
    }
    assert told["goals"][0]["goal"] == "on cup_1 plate_1"
    assert told["goals"][0]["closest_m"] == 0.123


def test_one_step_between_the_pads_is_no_grasp():
    assert cup(touched=range(5, 9), grasped=[6])["grasped"] is None
    assert cup(touched=range(5, 9), grasped=[6, 7])["grasped"] == 6


def test_a_thing_on_one_finger_is_held_once_it_is_lifted():
    up = ramp((0, 0), (10, 0), (20, 0.1))
    assert held(trace(height=up, touched=range(8, STEPS)), 0).tolist() == [False] * 13 + [True] * 17
    assert cup(height=up, touched=range(8, STEPS))["lifted"] == 13
    assert cup(height=up)["lifted"] is None  # nobody touched it


@pytest.mark.parametrize(
    ("end", "fell", "dropped"),
    [(0.0, 0.1, 20), (0.06, 0.04, None), (0.1, 0.0, None)],
)
def test_falling_far_is_dropping(end, fell, dropped):
    told = cup(height=ramp((5, 0), (10, 0.1), (19, 0.1), (22, end)), touched=range(4, 20), grasped=range(4, 20))
    assert told["let_go"] == 20
    assert told["fell_m"] == pytest.approx(fell)
    assert told["dropped"] == dropped


def test_falling_into_its_place_is_not_dropping():
    assert cup(height=ramp((5, 0), (10, 0.1), (19, 0.1), (22, 0)), grasped=range(4, 20), holds=[25])["dropped"] is None


def test_a_fall_ends_at_the_next_grasp():
    height = ramp((5, 0), (8, 0.1), (12, 0.1), (14, 0), (16, 0), (20, 0.1))
    told = cup(height=height, grasped=[*range(4, 13), *range(16, 25)], touched=[*range(4, 13), *range(16, 25)])
    assert told["dropped"] == 13
    assert told["let_go"] == 25
    assert told["fell_m"] == 0.0
    assert not told["held"]


def test_a_goal_is_told_when_it_first_held_and_whether_it_still_does():
    sideways = ramp((0, 0), (20, 0.39))
    told = milestones(trace(sideways=sideways, grasped=range(3, 16), touched=range(3, 16), holds=range(18, 22)))
    (goal,) = told["goals"]
    assert (goal["first"], goal["end"], goal["touched"], goal["implied"]) == (18, False, 3, False)
    assert (goal["away_start_m"], goal["away_end_m"]) == (0.4, 0.01)
    assert goal["away_let_go_m"] == pytest.approx(0.4 - 0.39 * 16 / 20, abs=1e-3)


def test_another_drawer_is_told_where_the_robot_moved_it():
    pulled = ramp((0, 0), (10, 0), (20, 0.5))
    assert milestones(trace(part=pulled, touched=range(8, 22)))["parts"] == {"top_level": {"touched": 8, "moved": 16}}
    assert milestones(trace(part=pulled))["parts"] == {}
    assert milestones(trace(part=pulled / 2, touched=range(8, 22)))["parts"] == {}


def test_a_joint_is_told_by_its_share():
    before = trace(goals=(PLACE, Goal("open", "drawer_1")))
    before.progress[:, 1] = ramp((0, 0), (10, 0.7), (20, 0.2))
    place, joint = milestones(before)["goals"]
    assert (joint["progress_max"], joint["progress_end"], joint["implied"]) == (0.7, 0.2, True)
    assert "progress_max" not in place
    assert "away_end_m" not in joint
