"""Every failed episode has one category, the one its milestones say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome
from evaluation.failures import Category, Verdict, judge, judge_milestones, told
from evaluation.rollout import NOT_FINITE, TIME_LIMIT

STILL = {
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
PLACE = {
    "goal": "on cup_1 plate_1",
    "implied": False,
    "first": None,
    "end": False,
    "touched": None,
    "closest_m": 0.2,
    "away_start_m": 0.4,
    "away_let_go_m": None,
    "away_end_m": 0.4,
}
JOINT = {
    "goal": "open drawer_1",
    "implied": False,
    "first": None,
    "end": False,
    "touched": None,
    "closest_m": 0.2,
    "progress_max": 0.0,
    "progress_end": 0.0,
}
TOUCHED = {"touched": 20}
SHUT = {"touched": 3, "moved": 9}
LIFTED = {"touched": 20, "grasped": 22, "lifted": 25, "moved": 30, "let_go": 50, "moved_m": 0.2}


def record(*goals, cup=STILL, parts=None, **others):
    return {"goals": list(goals), "objects": {"cup_1": cup, **others}, "parts": parts or {}}


def placing(goal=None, cup=None, **others):
    return record(PLACE | (goal or {}), cup=STILL | (cup or {}), **{name: STILL | o for name, o in others.items()})


@pytest.mark.parametrize(
    ("category", "milestones"),
    [
        (Category.NEVER_TOUCHED, placing()),
        (Category.NOT_GRASPED, placing({"closest_m": 0.03})),
        (Category.NEVER_TOUCHED, placing({"closest_m": 0.031})),
        (Category.NOT_GRASPED, placing(TOUCHED, TOUCHED)),
        (Category.NOT_GRASPED, placing(TOUCHED, {"touched": 20, "grasped": 22, "moved": 30, "moved_m": 0.06})),
        (Category.WRONG_OBJECT, placing(TOUCHED, TOUCHED, can_1={"grasped": 9})),
        (Category.WRONG_OBJECT, placing(TOUCHED, {"touched": 20, "grasped": 22}, can_1={"grasped": 9})),
        (Category.NOT_GRASPED, placing(TOUCHED, {"touched": 20, "grasped": 8}, can_1={"grasped": 9})),
        (Category.WRONG_OBJECT, placing(can_1={"touched": 3, "moved": 9})),
        (Category.NOT_GRASPED, placing(TOUCHED, TOUCHED, can_1={"touched": 3, "moved": 9})),
        (Category.NEVER_TOUCHED, placing(can_1={"moved": 9})),  # by something else than the robot
        (Category.DROPPED, placing({"away_let_go_m": 0.3}, LIFTED | {"fell_m": 0.08})),
        (Category.DROPPED, placing({"away_let_go_m": 0.3}, LIFTED | {"moved_m": 0.04})),  # back where it was
        (Category.DROPPED, placing({"away_let_go_m": 0.3}, LIFTED | {"fell_m": 0.08}, can_1={"grasped": 9})),
        (Category.MISPLACED, placing({"away_let_go_m": 0.3}, LIFTED | {"fell_m": 0.05})),
        (Category.MISPLACED, placing({"away_let_go_m": 0.1}, LIFTED | {"fell_m": 0.2})),
        (Category.MISPLACED, placing({"touched": 20, "away_end_m": 0.3}, TOUCHED | {"moved": 30, "moved_m": 0.1})),
        (Category.OUT_OF_TIME, placing({}, LIFTED | {"held": True})),
        (Category.LOST, placing({"first": 40}, LIFTED | {"held": True})),
        (Category.NEVER_TOUCHED, record(JOINT)),
        (Category.NOT_GRASPED, record(JOINT | {"touched": 3, "progress_max": 0.09})),
        (Category.WRONG_OBJECT, record(JOINT, can_1=STILL | {"grasped": 9})),
        (Category.WRONG_OBJECT, record(JOINT | {"touched": 3}, parts={"top_level": {"touched": 8, "moved": 9}})),
        (Category.OUT_OF_TIME, record(JOINT | {"progress_max": 0.5, "progress_end": 0.5}, parts={"top_level": SHUT})),
        (Category.DROPPED, record(JOINT | {"touched": 3, "progress_max": 0.8, "progress_end": 0.05})),
        (Category.OUT_OF_TIME, record(JOINT | {"touched": 3, "progress_max": 0.8, "progress_end": 0.5})),
        (Category.LOST, record(JOINT | {"first": 9, "progress_max": 1.0, "progress_end": 0.9})),
    ],
)
def test_the_decision_table(category, milestones):
    assert judge_milestones(milestones).category is category


def test_of_several_goals_the_furthest_that_is_missing_decides():
    done = {"first": 60, "end": True}
    assert judge_milestones(record(PLACE | done, JOINT)) == Verdict(Category.NEVER_TOUCHED, "open drawer_1", 1, 2)
    both = judge_milestones(record(PLACE, JOINT | {"progress_max": 0.5, "progress_end": 0.5}))
    assert both == Verdict(Category.OUT_OF_TIME, "open drawer_1", 0, 2)
    assert str(both) == "0 of 2 goals reached, then out of time (open drawer_1)"
    assert str(judge_milestones(placing())) == "never touched (on cup_1 plate_1)"


def test_a_drawer_that_only_had_to_be_opened_first_need_not_stay_open():
    opened = JOINT | {"implied": True, "first": 30, "progress_max": 1.0, "progress_end": 0.2}
    assert judge_milestones(record(PLACE, opened)) == Verdict(Category.NEVER_TOUCHED, "on cup_1 plate_1", 1, 2)


def test_what_holds_from_the_start_is_nobodys_merit():
    lit = JOINT | {"goal": "turnon stove_1", "first": 0, "end": True}
    assert judge_milestones(record(PLACE, lit)) == Verdict(Category.NEVER_TOUCHED, "on cup_1 plate_1", 0, 1)
    assert judge_milestones(record(PLACE, lit | {"end": False})).category is Category.LOST


def test_a_goal_that_holds_only_after_success_was_read_was_reached():
    assert judge_milestones(placing({"first": 60, "end": True})) == Verdict(Category.LOST, "", 1, 1)


def result(outcome, reason="", milestones=None):
    key = EpisodeKey(0, 0, 0, "no_think")
    return EpisodeResult(key, "task", "do it", outcome, 10, reason, milestones=milestones or {})


def test_success_faults_and_errors_need_no_milestones():
    fine = [result(Outcome.SUCCESS), result(Outcome.ERROR, "died"), result(Outcome.FAILURE, NOT_FINITE)]
    assert told(fine)
    assert [judge(r).category for r in fine] == [Category.SUCCESS, Category.ERROR, Category.POLICY_FAULT]
    assert judge(result(Outcome.FAILURE, NOT_FINITE, placing())).category is Category.POLICY_FAULT
    assert judge(result(Outcome.FAILURE, TIME_LIMIT, placing())).category is Category.NEVER_TOUCHED
    assert not told([*fine, result(Outcome.FAILURE, TIME_LIMIT)])


steps, metres = st.none() | st.integers(0, 520), st.floats(0, 1)
object_records = st.fixed_dictionaries(
    {name: steps for name in ("touched", "grasped", "lifted", "moved", "dropped", "let_go")}
    | {"fell_m": metres, "moved_m": metres, "held": st.booleans()}
)
common = {"implied": st.booleans(), "first": steps, "end": st.booleans(), "touched": steps, "closest_m": metres}
place_records = st.fixed_dictionaries(
    common
    | {"goal": st.sampled_from(["on cup_1 plate_1", "in can_1 basket_1_region"])}
    | {"away_start_m": metres, "away_let_go_m": st.none() | metres, "away_end_m": metres}
)
joint_records = st.fixed_dictionaries(
    common | {"goal": st.just("open drawer_1_top_region"), "progress_max": metres, "progress_end": metres}
)


@given(
    st.lists(place_records | joint_records, min_size=1, max_size=3),
    st.fixed_dictionaries({"cup_1": object_records, "can_1": object_records}, optional={"milk_1": object_records}),
    st.dictionaries(st.just("top_level"), st.fixed_dictionaries({"touched": st.integers(0), "moved": st.integers(0)})),
)
def test_every_record_falls_into_one_category_of_a_failure(goals, objects, parts):
    verdict = judge_milestones({"goals": goals, "objects": objects, "parts": parts})
    assert verdict.category not in (Category.SUCCESS, Category.ERROR, Category.POLICY_FAULT)
    assert 0 <= verdict.reached <= verdict.goals <= len(goals)
    assert verdict == judge_milestones({"goals": goals, "objects": dict(reversed(objects.items())), "parts": parts})
    if verdict.goal:
        (own,) = {g["goal"]: g for g in goals if g["goal"] == verdict.goal}.keys()
        assert own == verdict.goal
