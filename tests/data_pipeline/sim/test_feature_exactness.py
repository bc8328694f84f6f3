"""Exact features against pictures that the features' own code did not make: in every suite, with MuJoCo's own renderer
for boxes and a coloured ball at the grip site for points, in both cameras and in each frame."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import AGENTVIEW, CAMERAS, Episode, EpisodeId
from data_pipeline.gripper_positions import project
from data_pipeline.image_frame import ImageFrame, convert_points
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.features import Replayer
from data_pipeline.sim.goals import task_goals

pytestmark = pytest.mark.sim

SIZE = 256
CONFIG = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=SIZE)
OFFICIAL = EnvConfig(assets="official", look=Look.OFFICIAL, resolution=SIZE)
# A task of every arena: floor, tables, living room, kitchen, study.
TASKS = [(Subset.SPATIAL, 4), (Subset.GOAL, 3), (Subset.LONG, 0), (Subset.LONG, 2), (Subset.LONG, 5)]
FROM_GL = {  # what an array of the simulator becomes, written out
    ImageFrame.GL: lambda image: image,
    ImageFrame.UPRIGHT: lambda image: image[::-1],
    ImageFrame.ROT180: lambda image: image[::-1, ::-1],
}


def case(subset: Subset, task: int, config: EnvConfig, *marks: pytest.MarkDecorator) -> object:
    return pytest.param((subset, task, config), id=f"{config.assets}-{subset.value}-{task}", marks=marks)


CASES = [
    case(Subset.OBJECT, 0, CONFIG),
    *(case(*task, CONFIG, pytest.mark.slow) for task in TASKS),
    *(case(*task, OFFICIAL, pytest.mark.slow, pytest.mark.sim_official) for task in [(Subset.OBJECT, 0), *TASKS]),
]


@pytest.fixture(scope="module", params=CASES)
def env(request: pytest.FixtureRequest) -> Iterator[LiberoEnv]:
    made = LiberoEnv(*request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def states(env: LiberoEnv) -> np.ndarray:
    """As it begins; then with the arm elsewhere and the goal's object between its fingers. float [3, S]."""
    env.reset(seed=2)
    start = env.state()
    arm = [1 + env.model.joint(f"robot0_joint{i}").qposadr[0] for i in range(1, 8)]
    held = 1 + env.model.joint(env.raw.get_object(subject(env)).joints[0]).qposadr[0]
    rng, found = np.random.default_rng(0), [start]
    for _ in range(2):
        state = start.copy()
        state[arm] += rng.normal(0, 0.12, len(arm))
        env.set_state(state)
        state[held : held + 3] = env.grip_site_position()
        found.append(state)
    return np.array(found)


def subject(env: LiberoEnv) -> str:
    return next(goal.subject for goal in task_goals(env) if goal.places)


def test_a_coloured_ball_at_the_grip_site_is_where_we_project_it(env: LiberoEnv, states: np.ndarray) -> None:
    site = env.raw.robots[0].eef_site_id
    names = ("geom_group", "site_rgba", "site_size", "site_type")
    kept = {name: getattr(env.model, name).copy() for name in names}
    env.model.geom_group[:] = 3  # hide all else
    env.model.site_size[site], env.model.site_type[site] = 0.005, mujoco.mjtGeom.mjGEOM_SPHERE
    found = 0
    for state, camera in ((state, camera) for state in states for camera in CAMERAS):
        env.set_state(state)
        pictures = []
        for alpha in (0, 1):
            env.model.site_rgba[site] = (1, 0, 1, alpha)
            pictures.append(env.render(camera).astype(int))
        where = env.camera(camera)
        point, depth = project(env.grip_site_position(), where.position, where.rotation, where.focal_px, where.size)
        if (point < 4).any() or (point > SIZE - 4).any():
            continue
        assert depth > 0
        found += 1
        for frame, turned in FROM_GL.items():
            ball = turned(np.abs(pictures[1] - pictures[0]).max(-1) > 24)
            centre = (np.argwhere(ball) + 0.5).mean(0)[::-1]
            expected = convert_points(point, where.size, ImageFrame.UPRIGHT, frame)
            assert np.linalg.norm(centre - expected) < 1, (camera, frame, centre, expected)
    for name, values in kept.items():
        getattr(env.model, name)[:] = values
    assert found >= 4, "the grip site is in most of these pictures"


def seen_by_mujoco(env: LiberoEnv, only: np.ndarray | None = None) -> np.ndarray:
    """Geom ids of agentview as MuJoCo's own renderer has them, mirrored to ROT180; of `only` some geoms if given."""
    model, option = copy.copy(env.model), mujoco.MjvOption()
    model.vis.quality.offsamples = 0
    option.geomgroup[:] = [0, 1, 0, 0, 0, 0]
    option.sitegroup[:] = 0
    if only is not None:
        model.geom_group[np.setdiff1d(np.arange(model.ngeom), only)] = 0
    with mujoco.Renderer(model, SIZE, SIZE) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(env.data, AGENTVIEW, option)
        ids, kinds = np.moveaxis(renderer.render(), -1, 0)
    return np.where(kinds == mujoco.mjtObj.mjOBJ_GEOM, ids, -1)[:, ::-1]


def test_boxes_and_visible_shares_are_those_of_the_segmentation(env: LiberoEnv, states: np.ndarray) -> None:
    replayer = Replayer(env.config)
    replayer._env = env  # to build it once
    env.reset(seed=2)
    track = replayer.track(episode(env, states))
    hidden = 0
    for t, state in enumerate(states):
        env.set_state(state)
        seen = seen_by_mujoco(env)
        for index, name in enumerate(track.names):
            rows, columns = np.nonzero(np.isin(seen, env.geoms_of(name)))
            alone = int((seen_by_mujoco(env, env.geoms_of(name)) >= 0).sum())
            assert abs(track.visible[t, index] - len(rows) / max(alone, 1)) < 0.01, (t, name)
            hidden += 0 < len(rows) < 0.98 * alone
            if len(rows):
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_array_equal(track.box[t, index], box, err_msg=f"{t} {name}")
            else:
                assert np.isnan(track.box[t, index]).all()
    assert hidden, "something stood in front of something"


def episode(env: LiberoEnv, states: np.ndarray) -> Episode:
    count = len(states)
    return Episode(
        id=EpisodeId(env.subset, env.task_id, 0),
        task_name=env.task_name,
        instruction=env.instruction,
        actions=np.zeros((count, 7), np.float32),
        proprio=np.zeros((count, 8), np.float32),
        states=states,
        fixtures=env.fixture_poses(),
        fingerprint={},
        success=False,
        read_frames=lambda camera: np.zeros((count, 1, 1, 3), np.uint8),
    )
