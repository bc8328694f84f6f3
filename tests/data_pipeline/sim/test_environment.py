"""The environment: its state depends on nothing but (task, initial state, seed, actions); its pictures are metric."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest

from configs.choices import STUDY, Look, Stepping, Subset
from configs.data import EnvConfig
from data_pipeline.contract import AGENTVIEW, CAMERAS, GRIPPER_CLOSE, SimulationUnstableError
from data_pipeline.sim.environment import NO_OP, LiberoEnv

pytestmark = pytest.mark.sim

ONE_PER_ARENA = [
    (Subset.OBJECT, 0),  # floor
    (Subset.GOAL, 7),  # tabletop
    (Subset.LONG, 2),  # kitchen
    (Subset.LONG, 4),  # living room
    (Subset.LONG, 5),  # study
]
ALL_TASKS = [(subset, task_id) for subset in STUDY for task_id in range(10)]
CONFIG = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128)


@functools.cache
def shared(subset: Subset, task_id: int, config: EnvConfig = CONFIG) -> LiberoEnv:
    """Construction takes seconds: tests share environments, and reset them."""
    return LiberoEnv(subset, task_id, config)


@pytest.fixture(scope="module", autouse=True)
def _one_cache_per_module() -> Iterator[None]:
    yield
    shared.cache_clear()


@pytest.fixture
def stove() -> LiberoEnv:
    return shared(Subset.GOAL, 7)


def wild_actions(steps: int, seed: int = 0) -> np.ndarray:
    """Moves that reach the table and open and close the gripper: [steps, 7]."""
    walk = np.cumsum(np.random.default_rng(seed).normal(0, 0.4, (steps, 7)), axis=0)
    walk[:, 2] -= 0.7
    return np.clip(walk, -1, 1)


def trajectory(env: LiberoEnv, actions: np.ndarray) -> np.ndarray:
    states = []
    for action in actions:
        env.step(action)
        states.append(env.state())
    return np.array(states)


# ------------------------------------------------------------------ tasks


@pytest.mark.parametrize(("subset", "task_id"), ONE_PER_ARENA)
def test_a_task_builds_takes_its_official_states_and_draws(subset: Subset, task_id: int) -> None:
    check_task(shared(subset, task_id))


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "task_id"), ALL_TASKS)
def test_every_task_builds_takes_its_official_states_and_draws(subset: Subset, task_id: int) -> None:
    env = LiberoEnv(subset, task_id, CONFIG)
    check_task(env)
    env.close()


def check_task(env: LiberoEnv) -> None:
    assert env.num_init_states == 50
    env.reset(seed=0, init_state=49)
    np.testing.assert_array_equal(env.state(), env.init_state(49))
    env.settle()
    assert not env.success()
    assert np.abs(env.data.qvel).max() < 0.5  # nothing has been thrown out of an overlap
    for camera in CAMERAS:
        image = env.render(camera)
        assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
        assert image.std() > 15
    assert env.objects_of_interest
    for name in env.objects_of_interest:
        assert env.raw.get_object(name) is not None or name.startswith("main_table")
    for name in (*env.object_names, *env.fixture_names):
        assert len(env.geoms_of(name)) > 1
    assert env.goal
    assert all(predicate in {"On", "In", "Open", "Close", "Turnon", "Turnoff"} for predicate, *_ in env.goal)


def test_a_bddl_goal_is_read(stove: LiberoEnv) -> None:
    assert stove.goal == (("Turnon", "flat_stove_1"),)
    assert stove.instruction == "turn on the stove"


def test_turning_the_knob_is_success_lights_the_burner_and_does_not_outlive_the_episode(stove: LiberoEnv) -> None:
    burner = stove.model.site("flat_stove_1_burner").id
    stove.reset(seed=0, init_state=0)
    assert not stove.success()
    assert stove.model.site_rgba[burner, 3] <= 0
    state = stove.state()
    state[1 + stove.model.joint("flat_stove_1_button").qposadr[0]] = 1.5
    stove.set_state(state)
    assert stove.step(NO_OP)
    assert stove.model.site_rgba[burner, 3] > 0
    stove.reset(seed=0, init_state=0)
    assert not stove.success()
    assert stove.model.site_rgba[burner, 3] <= 0


# ------------------------------------------------------------------ determinism


def test_a_reset_forgets_the_episode_before(stove: LiberoEnv) -> None:
    """The gripper's integrator, fixture poses, warm starts and the controller must all start anew."""
    stove.reset(seed=3, init_state=2)
    poses, image, first = stove.fixture_poses(), stove.render(AGENTVIEW), trajectory(stove, wild_actions(25))
    stove.reset(seed=5)
    trajectory(stove, np.tile([0, 0, -1, 0, 0, 0, GRIPPER_CLOSE], (15, 1)))
    stove.reset(seed=3, init_state=2)
    assert stove.fixture_poses() == poses
    np.testing.assert_array_equal(stove.render(AGENTVIEW), image)
    np.testing.assert_array_equal(trajectory(stove, wild_actions(25)), first)


def test_a_used_environment_equals_a_fresh_one(stove: LiberoEnv) -> None:
    trajectory(stove, wild_actions(10, seed=1))
    fresh = LiberoEnv(Subset.GOAL, 7, CONFIG)
    for env in (stove, fresh):
        env.reset(seed=11)  # placements sampled from the BDDL regions
    np.testing.assert_array_equal(stove.state(), fresh.state())
    assert stove.fixture_poses() == fresh.fixture_poses()
    np.testing.assert_array_equal(trajectory(stove, wild_actions(15)), trajectory(fresh, wild_actions(15)))
    fresh.close()


def test_the_seed_moves_objects_and_fixtures_and_the_global_generator_does_not(stove: LiberoEnv) -> None:
    np.random.seed(0)  # noqa: NPY002 - the generator that LIBERO reads
    stove.reset(seed=1)
    state, poses = stove.state(), stove.fixture_poses()
    np.random.seed(1)  # noqa: NPY002
    stove.reset(seed=1)
    np.testing.assert_array_equal(stove.state(), state)
    assert stove.fixture_poses() == poses
    stove.reset(seed=2)
    assert np.abs(stove.state() - state).max() > 1e-3
    assert stove.fixture_poses() != poses


def test_looking_does_not_change_what_happens(stove: LiberoEnv) -> None:
    actions = wild_actions(10)
    stove.reset(seed=0, init_state=1)
    blind = trajectory(stove, actions)
    stove.reset(seed=0, init_state=1)
    seen = []
    for action in actions:
        stove.step(action)
        stove.render(AGENTVIEW)
        stove.render_depth(AGENTVIEW)
        stove.observation_extras()
        stove.success()
        seen.append(stove.state())
    np.testing.assert_array_equal(np.array(seen), blind)


def test_fixture_poses_and_states_go_round(stove: LiberoEnv) -> None:
    stove.reset(seed=1, init_state=0)
    poses, image, state = stove.fixture_poses(), stove.render(AGENTVIEW), stove.state()
    stove.reset(seed=2, init_state=0)
    assert (stove.render(AGENTVIEW) != image).any()
    stove.set_fixture_poses(poses)
    stove.set_state(state)
    np.testing.assert_array_equal(stove.render(AGENTVIEW), image)
    with pytest.raises(ValueError, match="has the fixtures"):
        stove.set_fixture_poses({"wooden_cabinet_1_main": (0.0,) * 7})
    with pytest.raises(ValueError, match="a state has shape"):
        stove.set_state(state[:-1])


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan)])
def test_actions_that_are_none_are_refused(stove: LiberoEnv, action: np.ndarray) -> None:
    with pytest.raises(ValueError, match="7 finite numbers"):
        stove.step(action)


def test_a_simulation_that_blows_up_is_an_error_and_leaves_no_log_file(
    stove: LiberoEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stove.reset(seed=0, init_state=0)
    stove.data.qvel[:] = 1e12
    with pytest.raises(SimulationUnstableError, match="turn_on_the_stove"):
        stove.step(NO_OP)
    assert not list(tmp_path.iterdir())
    stove.reset(seed=0, init_state=0)
    stove.step(NO_OP)


# ------------------------------------------------------------------ stepping


def robosuite_step(env: LiberoEnv, action: np.ndarray) -> None:
    """`MujocoEnv.step` of robosuite 1.4 without observables, with its own controller and simulation."""
    raw = env.raw
    raw.robots[0].controller.sim = raw.sim
    for substep in range(25):
        raw.sim.forward()
        raw._pre_action(action, substep == 0)
        raw.sim.step()


@pytest.mark.parametrize(("subset", "task_id"), [(Subset.GOAL, 7), (Subset.OBJECT, 0)])
def test_exact_stepping_is_robosuites_bit_for_bit(subset: Subset, task_id: int) -> None:
    env, actions = shared(subset, task_id), wild_actions(40)
    env.reset(seed=0, init_state=0)
    ours = trajectory(env, actions)
    env.reset(seed=0, init_state=0)
    theirs = []
    for action in actions:
        robosuite_step(env, action)
        theirs.append(env.state())
    np.testing.assert_array_equal(ours, np.array(theirs))


def test_fast_stepping_is_close_until_something_is_touched() -> None:
    exact = shared(Subset.GOAL, 7)
    fast = LiberoEnv(Subset.GOAL, 7, EnvConfig(assets="builtin", stepping=Stepping.FAST, resolution=128))
    up = np.tile([0.3, 0.2, 0.5, 0.1, 0, 0, 1], (15, 1))
    for env in (exact, fast):
        env.reset(seed=0, init_state=0)
    np.testing.assert_allclose(trajectory(exact, up)[:, 1:10], trajectory(fast, up)[:, 1:10], atol=1e-4)
    fast.close()


# ------------------------------------------------------------------ pictures


def test_nothing_is_drawn_unless_asked_for(stove: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(mujoco, "mjr_render", lambda *_: drawn.append(1))
    stove.reset(seed=0, init_state=0)
    stove.settle(2)
    stove.success()
    assert not drawn
    stove.render(AGENTVIEW)
    assert drawn


def test_depth_is_planar_and_metric_and_ids_name_geoms(stove: LiberoEnv) -> None:
    """Every table pixel, taken back into the world, lies on the table; the plate's pixels on the plate."""
    stove.reset(seed=0, init_state=0)
    stove.settle()
    depth, geoms = (layer[::-1] for layer in stove.render_depth(AGENTVIEW))  # UPRIGHT
    camera = stove.camera(AGENTVIEW)
    rows, columns = np.mgrid[:128, :128] + 0.5
    rays = np.stack([(columns - 64) / camera.focal_px, (64 - rows) / camera.focal_px, -np.ones_like(rows)], -1)
    world = camera.position + (rays * depth[..., None]) @ camera.rotation.T
    table = geoms == stove.model.geom("table_visual").id
    top = stove.model.geom("table_visual").size[2] + stove.data.geom("table_visual").xpos[2]
    surface = table & (np.abs(world[..., 0]) < 0.3)  # not the table's edge
    assert surface.sum() > 2000
    assert np.abs(world[surface][:, 2] - top).max() < 2e-3
    plate = np.isin(geoms, stove.geoms_of("plate_1"))
    center = stove.data.xpos[stove.body_of("plate_1")]
    assert plate.sum() > 100
    assert np.linalg.norm(world[plate][:, :2] - center[:2], axis=1).max() < 0.072


def test_the_official_look_is_robosuites_picture() -> None:
    from robosuite.utils.binding_utils import MjRenderContextOffscreen

    env = LiberoEnv(Subset.GOAL, 7, EnvConfig(assets="builtin", look=Look.OFFICIAL, resolution=128))
    env.reset(seed=0, init_state=0)
    context = MjRenderContextOffscreen(env.raw.sim, device_id=-1)
    context.vopt.geomgroup[0], context.vopt.geomgroup[1] = 0, 1
    for camera in CAMERAS:
        theirs = env.raw.sim.render(camera_name=camera, width=128, height=128)
        np.testing.assert_array_equal(env.render(camera), theirs)
    depth, geoms = env.render_depth(AGENTVIEW)
    assert np.isfinite(depth).all()
    assert set(np.unique(geoms)) <= set(range(-1, env.model.ngeom))
    env.close()


def test_the_light_look_changes_pictures_and_no_physics() -> None:
    light = shared(Subset.GOAL, 7)
    plain = LiberoEnv(Subset.GOAL, 7, EnvConfig(assets="builtin", look=Look.FAST, resolution=128))
    for env in (light, plain):
        env.reset(seed=0, init_state=0)
    np.testing.assert_array_equal(trajectory(light, wild_actions(5)), trajectory(plain, wild_actions(5)))
    assert (light.render(AGENTVIEW) != plain.render(AGENTVIEW)).any()
    drawn = {int(g) for g in np.unique(light.render_depth(AGENTVIEW)[1]) if g >= 0}
    robot = {g for g in drawn if light.model.body(light.model.geom_bodyid[g]).name.startswith("robot0")}
    assert robot
    assert all(light.model.geom_contype[g] or light.model.geom_conaffinity[g] for g in robot)
    plain.close()


# ------------------------------------------------------------------ robot and objects


def test_what_both_pads_touch_is_grasped() -> None:
    env = shared(Subset.OBJECT, 0)
    env.reset(seed=0, init_state=0)
    assert env.grasped_objects() == set()
    joint = env.model.body_jntadr[env.body_of("cream_cheese_1")]
    at, turn = env.model.jnt_qposadr[joint], env.model.jnt_dofadr[joint]
    quaternion = np.array([1.0, 0, 0, 0])
    for _ in range(20):  # held in the air until the fingers have closed on it
        env.data.qpos[at : at + 7] = [*env.grip_site_position(), *quaternion]
        env.data.qvel[turn : turn + 6] = 0
        env.step(np.array([0, 0, 0, 0, 0, 0, GRIPPER_CLOSE]))
    assert env.grasped_objects() == {"cream_cheese_1"}


def test_the_robot_is_read_as_the_official_files_hold_it(stove: LiberoEnv) -> None:
    stove.reset(seed=0, init_state=0)
    stove.settle(3)
    extras = stove.observation_extras()
    shapes = {"ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}
    assert {name: array.shape for name, array in extras.items()} == {k: (v,) for k, v in shapes.items()}
    np.testing.assert_array_equal(extras["ee_states"], np.concatenate([extras["ee_pos"], extras["ee_ori"]]))
    np.testing.assert_array_equal(extras["ee_pos"], stove.grip_site_position())
    assert abs(np.linalg.norm(extras["ee_ori"]) - np.pi) < 0.2  # the hand points down
    mujoco.mj_forward(stove.model, stove.data)
    np.testing.assert_array_equal(stove.grip_site_position(), extras["ee_pos"])  # nothing was stale


def test_geoms_of_a_fixture_include_its_moving_parts(stove: LiberoEnv) -> None:
    names = {stove.model.body(stove.model.geom_bodyid[g]).name for g in stove.geoms_of("wooden_cabinet_1")}
    assert any("cabinet_top" in name for name in names)
    assert all(name.startswith("wooden_cabinet_1") for name in names)


def test_the_fingerprint_is_json_and_tells_environments_apart(stove: LiberoEnv) -> None:
    ours = stove.fingerprint()
    assert json.loads(json.dumps(ours)) == ours
    assert ours["mujoco"] == "3.3.2"
    assert ours["robosuite"] == "1.4.0"
    assert (ours["assets"], ours["look"], ours["stepping"], ours["resolution"]) == ("builtin", "light", "exact", 128)
    assert ours["renderer"].count("|") == 2


# ------------------------------------------------------------------ the official assets


@pytest.mark.sim_official
@pytest.mark.parametrize(
    ("subset", "task_id"), [(Subset.SPATIAL, 5), (Subset.OBJECT, 0), (Subset.LONG, 4), (Subset.LONG, 9)]
)
def test_the_built_in_set_has_the_official_physics(subset: Subset, task_id: int) -> None:
    check_physics(subset, task_id)


@pytest.mark.slow
@pytest.mark.sim_official
@pytest.mark.parametrize(("subset", "task_id"), ALL_TASKS)
def test_the_built_in_set_has_the_official_physics_in_every_task(subset: Subset, task_id: int) -> None:
    check_physics(subset, task_id)


def check_physics(subset: Subset, task_id: int) -> None:
    """Body poses after 50 no-ops agree within 0.1 mm."""
    ends = []
    for kind in ("builtin", "official"):
        env = LiberoEnv(subset, task_id, EnvConfig(assets=kind))
        env.reset(seed=0, init_state=0)
        env.settle(50)
        ends.append(({n: env.data.xpos[env.body_of(n)].copy() for n in env.object_names}, env.fixture_poses()))
        env.close()
    (ours, our_fixtures), (theirs, their_fixtures) = ends
    assert our_fixtures == their_fixtures
    for name, position in ours.items():
        np.testing.assert_allclose(position, theirs[name], atol=1e-4, err_msg=name)
