"""Outcomes of demonstrations: what is measured of each, and the table that a person reads."""

from dataclasses import asdict

import numpy as np
import pytest

from data_pipeline.demo_outcomes import (
    FailedAttempt,
    Outcome,
    count_grips,
    hand_spread_m,
    path_length_m,
    summarise,
    table,
)

MADE = Outcome(
    (FailedAttempt(1, "dropped it"),), 1, steps=100, seed=5, distance_to_official_m=0.0058, hand_path_m=1.0, grips=1
)
AGAIN = Outcome((), 0, steps=140, seed=6, distance_to_official_m=0.0071, hand_path_m=1.4, grips=2)
LOST = Outcome((FailedAttempt(2, "dropped it"), FailedAttempt(3, "no free grasp")))

TABLE = """
task                                    made  failed  success  steps  (min-max)    m/s  re-grasp  start cm  per min
0 open the top drawer                 2 of 3       3      40%    120  (100-140)  0.200         1      0.58     40.0
4 a task with a name that is much...  0 of 1       2       0%      -          -      -         -         -        -
made 2 of 4 demonstrations; 2 of 7 attempts succeeded
smallest distance of a start to an official initial state: 0.58 cm (nearer ones drawn and refused: 1)
24.0 demonstrations per minute with 2 workers
failed attempts, none of them written:
     3 x dropped it (task 0: 2, task 4: 1)
     2 x no free grasp (task 0: 1, task 4: 1)
"""


def test_an_outcome_survives_its_file():
    assert Outcome.load(asdict(MADE)) == MADE


def test_a_grip_is_a_change_of_the_command_from_open_to_close():
    actions = np.zeros((7, 7))
    actions[:, 6] = [-1, 1, 1, -1, 1, 1, -1]
    assert count_grips(actions) == 2
    assert count_grips(actions[1:]) == 2  # closed from the first step
    assert count_grips(actions[:1]) == 0


def test_lengths_and_spread_of_the_hands_paths():
    straight = np.linspace([0, 0, 0], [0.3, 0.4, 0], 11)
    assert path_length_m(straight) == pytest.approx(0.5)
    assert hand_spread_m([straight, straight[::2]]) == pytest.approx(0, abs=1e-9)  # the same path, half as many steps
    assert hand_spread_m([straight, straight + np.array([0, 0, 0.02])]) == pytest.approx(0.01)


def test_the_table_says_what_was_made_what_failed_and_why():
    hands = [np.zeros((100, 3)), np.zeros((140, 3))]
    tasks = {
        "open_the_top_drawer": summarise(0, {0: MADE, 1: AGAIN, 2: LOST}, hands),
        "a_task_with_a_name_that_is_much_longer_than_a_column": summarise(4, {0: LOST}, []),
    }
    remarks = {"workers": 2, "busy_s": {"open_the_top_drawer": 6.0, "a_task_with_a_name_that_is_much_longer": 4.0}}
    assert [line.rstrip() for line in table({"tasks": tasks}, remarks)] == TABLE.strip().splitlines()
    assert not any("per minute" in line for line in table({"tasks": tasks}, {}))  # of an older stage: not known
