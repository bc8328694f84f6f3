"""Fixtures worked by the scripted expert: drawers, the microwave's door, the stove's knob, a dragged plate."""

from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.replay import noop_mask
from data_pipeline.sim.expert.expert import run_expert

MIDDLE_DRAWER, PLATE, STOVE = (Subset.GOAL, 0), (Subset.GOAL, 5), (Subset.GOAL, 7)
STOVE_AND_POT, BOTTOM_DRAWER, MICROWAVE = (Subset.LONG, 2), (Subset.LONG, 3), (Subset.LONG, 9)


@contextmanager
def environment(subset, task, assets="builtin"):
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(subset, task, EnvConfig(assets=assets, look=Look.LIGHT, resolution=64))
    try:
        yield env
    finally:
        env.close()


def solve(env, init_state):
    env.reset(0, init_state)
    env.settle()
    actions = []
    attempt = run_expert(env, np.random.default_rng(init_state), MAX_STEPS[env.subset], actions.append)
    assert attempt.success, attempt.reason
    assert not noop_mask(np.array(actions)).any()


@pytest.mark.sim
@pytest.mark.parametrize(
    ("task", "init_state"),
    [
        (MICROWAVE, 11),  # the door leans into the hand's way
        (PLATE, 2),  # the cream cheese lies in the plate's way
        pytest.param(MIDDLE_DRAWER, 0, marks=pytest.mark.slow),
        pytest.param(STOVE, 0, marks=pytest.mark.slow),
        pytest.param(STOVE_AND_POT, 0, marks=pytest.mark.slow),
        pytest.param(BOTTOM_DRAWER, 0, marks=pytest.mark.slow),
    ],
)
def test_a_fixture_is_worked_within_the_limit_without_a_noop(task, init_state):
    with environment(*task) as env:
        solve(env, init_state)


@pytest.mark.sim_official
@pytest.mark.slow
@pytest.mark.parametrize("task", [PLATE, BOTTOM_DRAWER, MICROWAVE])
def test_fixtures_are_worked_with_the_official_assets(task):
    with environment(*task, assets="official") as env:
        solve(env, 1)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(("task", "moved"), [(MICROWAVE, "white_yellow_mug_1"), (PLATE, "plate_1")])
def test_what_slips_away_before_the_fingers_close_is_taken_again(task, moved):
    from data_pipeline.contract import GRIPPER_CLOSE

    with environment(*task) as env:
        env.reset(0, 0)
        env.settle()
        actions = []

        def slip(action):
            if action[6] == GRIPPER_CLOSE and all(earlier[6] != GRIPPER_CLOSE for earlier in actions):
                env.data.joint(f"{moved}_joint0").qpos[0] += 0.05
            actions.append(action)

        attempt = run_expert(env, np.random.default_rng(0), MAX_STEPS[env.subset], slip)
        closed = [action[6] == GRIPPER_CLOSE for action in actions]
        assert attempt.success, attempt.reason
        assert sum(now and not before for before, now in pairwise(closed)) >= 2


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "joint", "reason"),
    [
        (MICROWAVE, "microwave_1_microjoint", r"the door of microwave_1 did not close: 1\.\d\d rad open"),
        (MIDDLE_DRAWER, "wooden_cabinet_1_middle_level", r"wooden_cabinet_1_middle_region did not open: \d\.\d cm"),
    ],
)
def test_what_does_not_move_is_a_failure_in_words(task, joint, reason):
    from data_pipeline.sim.expert.expert import expert_actions
    from data_pipeline.sim.expert.skills import ExpertFailure

    with environment(*task) as env:
        env.reset(0, 0)
        env.settle()
        env.model.joint(joint).damping[:] = 1e4
        steps = (env.step(action) for action in expert_actions(env, np.random.default_rng(0)))
        with pytest.raises(ExpertFailure, match=reason):
            any(steps)


@pytest.mark.sim
def test_a_plate_goes_around_what_lies_in_its_way_within_reach():
    from data_pipeline.sim.expert.drag import find_way
    from data_pipeline.sim.expert.geometry import distance_to_segment
    from data_pipeline.sim.expert.scene import Scene

    with environment(*PLATE) as env:
        env.reset(0, 2)
        env.settle()
        scene, place = Scene(env), Scene(env).region("main_table_stove_front_region")
        start, cheese = scene.position("plate_1")[:2], scene.object_points("cream_cheese_1")
        bend, end = find_way(scene, "plate_1", place)
        straight = distance_to_segment(cheese[:, :2], start, end).min()
        around = min(distance_to_segment(cheese[:, :2], *leg).min() for leg in ((start, bend), (bend, end)))
        assert around > straight + 0.01
        assert (np.abs(end - place.centre[:2]) < place.extent[:2]).all()
        assert np.linalg.norm(bend - scene.base[:2]) < 0.8  # the arm's length


@pytest.mark.sim
def test_a_door_turns_about_its_hinge_and_faces_outwards_when_shut():
    from data_pipeline.sim.expert.scene import Scene

    with environment(*MICROWAVE) as env:
        env.reset(0, 0)
        door = Scene(env).door("microwave_1")
        inside = env.data.site("microwave_1_heating_region").xpos
        face = door.before(0.0, 0.0)
        shut = door.turned(face, abs(door.angle))
        assert abs(door.angle) > 1.3
        assert np.allclose(door.outwards_when_shut, [0, -1, 0], atol=1e-6)
        assert abs(shut[0] - inside[0]) < 0.08  # before the opening, not beside it
        assert 0.08 < inside[1] - shut[1] < 0.16
        assert np.linalg.norm(shut - door.anchor) == pytest.approx(np.linalg.norm(face - door.anchor))
