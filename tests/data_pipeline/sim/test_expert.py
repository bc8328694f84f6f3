"""The scripted expert: grasp search on made-up clouds, and whole tasks in the simulator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import GRIPPER_CLOSE, GRIPPER_OPEN
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.replay import noop_mask
from data_pipeline.sim.expert.expert import run_expert
from data_pipeline.sim.expert.geometry import pointing_down, rotation_about, rotation_vector
from data_pipeline.sim.expert.grasps import GraspNotFound, find_grasp
from data_pipeline.sim.expert.motion import Hand, Style

NOTHING = np.zeros((0, 3))
SHOULDER = np.array([-0.2, 0.1, 0.3])


def block(centre, half, spacing=0.005):
    axes = [np.arange(c - h, c + h + 1e-9, spacing) for c, h in zip(centre, half, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


class TestGeometry:
    @given(st.floats(0.01, 3.1), st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda a: np.linalg.norm(a) > 0.1))
    def test_rotation_vector_inverts_rotation_about(self, angle, axis):
        expected = np.array(axis) / np.linalg.norm(axis) * angle
        assert np.allclose(rotation_vector(rotation_about(np.array(axis), angle)), expected, atol=1e-6)

    def test_a_hand_pointing_down_is_a_rotation(self):
        rotation = pointing_down(np.array([0.3, -0.8, 0.5]))
        assert np.allclose(rotation @ rotation.T, np.eye(3))
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert np.allclose(rotation[:, 2], [0, 0, -1])


class TestGraspSearch:
    def test_a_long_block_is_held_across_its_narrow_side_near_the_middle(self):
        points = block((0.4, 0.1, 0.05), (0.10, 0.02, 0.05))
        grasp = find_grasp(points, NOTHING, points.mean(axis=0), rest_yaw=0.0, shoulder=SHOULDER)
        assert abs(grasp.rotation[1, 0]) == pytest.approx(1)  # the fingers open along y
        assert np.linalg.norm(grasp.position[:2] - [0.4, 0.1]) < 0.012

    def test_a_disc_wider_than_the_hand_has_no_grasp(self):
        points = block((0.4, 0.1, 0.05), (0.12, 0.12, 0.01), spacing=0.006)
        points = points[np.linalg.norm(points[:, :2] - [0.4, 0.1], axis=1) < 0.12]
        with pytest.raises(GraspNotFound):
            find_grasp(points, NOTHING, points.mean(axis=0), rest_yaw=0.0, shoulder=SHOULDER)

    def test_a_wall_beside_the_block_turns_the_grasp(self):
        points = block((0.4, 0.1, 0.05), (0.02, 0.02, 0.05))
        walls = np.concatenate([block((0.4, 0.1 + side, 0.045), (0.10, 0.005, 0.045)) for side in (0.04, -0.04)])
        free = find_grasp(points, NOTHING, points.mean(axis=0), rest_yaw=np.pi / 2, shoulder=SHOULDER)
        turned = find_grasp(points, walls, points.mean(axis=0), rest_yaw=np.pi / 2, shoulder=SHOULDER)
        assert abs(free.rotation[1, 0]) > 0.9
        assert abs(turned.rotation[1, 0]) < 0.4

    def test_a_failed_grasp_is_not_tried_again(self):
        points = block((0.4, 0.1, 0.05), (0.10, 0.02, 0.05))
        origin = points.mean(axis=0)
        first = find_grasp(points, NOTHING, origin, rest_yaw=0.0, shoulder=SHOULDER)
        second = find_grasp(points, NOTHING, origin, rest_yaw=0.0, shoulder=SHOULDER, failed=(first,))
        assert not second.resembles(first.offset, first.yaw)


class StillScene:
    """A hand that is where it should be."""

    hand_position = np.array([0.1, 0.2, 0.3])
    hand_rotation = pointing_down(np.array([1.0, 0, 0]))
    opening = 0.0


def test_a_hand_at_rest_still_does_no_noop():
    hand = Hand(StillScene(), Style())
    actions = np.array([*hand.close(8), *hand.open(8), *hand.wait(5)])
    assert not noop_mask(actions).any()
    assert np.linalg.norm(actions[:, :6], axis=1).min() > 0.01
    assert (actions[:8, 6] == GRIPPER_CLOSE).all()


def test_the_style_spreads_as_far_as_asked():
    assert Style.sample(np.random.default_rng(3), 0.0) == Style()
    full, half = Style.sample(np.random.default_rng(3)), Style.sample(np.random.default_rng(3), 0.5)
    assert full.speed != Style().speed
    assert half.speed - Style().speed == pytest.approx((full.speed - Style().speed) / 2)
    assert half.approach - Style().approach == pytest.approx((full.approach - Style().approach) / 2)
    assert half.sideways == pytest.approx([value / 2 for value in full.sideways])
    assert half.grasp == pytest.approx([value / 2 for value in full.grasp])


@pytest.mark.parametrize(("tolerance", "disturbed"), [(0.012, 0.07), (0.006, 0.0)])
def test_a_transit_ends_near_its_waypoint(tolerance, disturbed):
    """Of a motion over 10 cm, metres until nothing is disturbed any more; an exact waypoint is no transit at all."""
    scene = StillScene()
    scene.hand_position = np.zeros(3)
    hand = Hand(scene, Style())
    target, last = np.array([0.1, 0.0, 0.0]), 0.0
    for _ in hand.go_to(target, tolerance=tolerance):
        if hand.in_transit:
            last = scene.hand_position[0]
        scene.hand_position = scene.hand_position + np.array([0.0025, 0.0, 0.0])
    assert last == pytest.approx(disturbed, abs=0.0026)
    assert scene.hand_position[0] > 0.1 - tolerance


VERBS = {"reach", "grasp", "lift", "carry", "lower", "release", "retreat", "retry", "open", "close", "turnon", "drag"}


@pytest.mark.sim
@pytest.mark.parametrize(
    ("subset", "task", "init_states"),
    [
        (Subset.SPATIAL, 9, (0,)),
        (Subset.OBJECT, 0, (3, 17)),
        (Subset.GOAL, 7, (5,)),
        (Subset.LONG, 5, (8,)),
        pytest.param(Subset.GOAL, 3, (3, 12), marks=pytest.mark.slow),
        pytest.param(Subset.LONG, 8, (0, 10), marks=pytest.mark.slow),
    ],
)
def test_the_expert_solves_official_initial_states_without_a_noop(subset, task, init_states):
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(subset, task, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
    try:
        for index in init_states:
            env.reset(0, index)
            env.settle()
            actions = []
            attempt = run_expert(env, np.random.default_rng(index), MAX_STEPS[subset], actions.append)
            assert attempt.success, attempt.reason
            assert attempt.steps == len(actions)
            assert not noop_mask(np.array(actions)).any()
            check_phases(attempt.phases, np.array(actions)[:, -1])
            assert np.abs(actions).max() <= 1
    finally:
        env.close()


def check_phases(phases, gripper):
    """One per step, none empty; where it begins to grasp the fingers close, and where it releases they open."""
    assert len(phases) == len(gripper)
    verbs = [phase.split(" ")[0] for phase in phases]
    assert {"reach", "grasp"} <= set(verbs) <= VERBS
    for step in range(1, len(verbs)):
        if verbs[step] != verbs[step - 1] and verbs[step] in ("grasp", "release", "retry"):
            assert (gripper[step - 1] < 0 < gripper[step]) == (verbs[step] == "grasp")


@pytest.fixture(scope="module")
def soup():
    """Object task 0 at the settled official initial state 3, made anew by each call."""
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(Subset.OBJECT, 0, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))

    def again():
        env.reset(0, 3)
        env.settle()
        return env

    yield again
    env.close()


def play(env, seed, disturb=lambda step, action: None):
    """Path of the hand [T, 3] and actions [T, 7] of a successful run; `disturb` may change either before each step."""
    path, actions = [], []

    def before_step(action):
        disturb(len(actions), action)
        path.append(env.grip_site_position())
        actions.append(action.copy())

    attempt = run_expert(env, np.random.default_rng(seed), MAX_STEPS[env.subset], before_step)
    assert attempt.success, attempt.reason
    return np.array(path), np.array(actions)


@pytest.mark.sim
def test_seeds_vary_the_motion_and_equal_seeds_repeat_it(soup):
    paths, actions = zip(*(play(soup(), seed) for seed in (0, 1, 2, 0)), strict=True)
    assert np.array_equal(actions[0], actions[3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = np.linalg.norm(paths[one][:, None] - paths[other][None], axis=-1).min(axis=1)
        assert apart.max() > 0.01  # metres between two paths, whatever the speed


@pytest.mark.sim
@pytest.mark.parametrize("step", [12, 30])
def test_an_object_that_moves_after_the_grasp_was_planned_is_still_picked(soup, step):
    env = soup()
    column = int(env.model.jnt_qposadr[env.model.body_jntadr[env.body_of("alphabet_soup_1")]])

    def nudge(now, _):
        if now == step:
            env.data.qpos[column : column + 2] += (0.025, -0.025)

    play(env, 0, nudge)


@pytest.mark.sim
def test_an_object_that_was_dropped_on_the_way_is_picked_again(soup):
    env = soup()
    table, dropped = env.data.xpos[env.body_of("alphabet_soup_1")][2], []

    def drop(_, action):
        lifted = env.data.xpos[env.body_of("alphabet_soup_1")][2] - table > 0.06
        if len(dropped) < 8 and (lifted or dropped):
            dropped.append(action)
            action[6] = GRIPPER_OPEN

    play(env, 0, drop)
    assert len(dropped) == 8


@pytest.mark.sim
def test_an_unsolvable_time_limit_is_a_named_failure():
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(Subset.GOAL, 8, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
    try:
        env.reset(0, 0)
        attempt = run_expert(env, np.random.default_rng(0), 5)
        assert (attempt.success, attempt.steps) == (False, 5)
        assert attempt.reason == "after 5 steps akita_black_bowl_1 is not on plate_1"
    finally:
        env.close()


@pytest.mark.sim_official
def test_the_expert_does_not_need_the_built_in_assets():
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(Subset.SPATIAL, 2, EnvConfig(assets="official", look=Look.LIGHT, resolution=64))
    try:
        env.reset(0, 4)
        env.settle()
        attempt = run_expert(env, np.random.default_rng(4), MAX_STEPS[Subset.SPATIAL])
        assert attempt.success, attempt.reason
    finally:
        env.close()
