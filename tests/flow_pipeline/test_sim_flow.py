"""Exact flow of rendered scenes: against closed forms in a scene of our own, against the pictures in LIBERO's."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import mujoco
import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import AGENTVIEW, CAMERAS, WRIST
from data_pipeline.image_frame import ImageFrame, convert_image
from data_pipeline.scene import Moment
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.features import moment
from data_pipeline.sim.rendering import Renderer, camera
from flow_pipeline.exact_flow import exact_flow

pytestmark = pytest.mark.sim

SIZE = 128
ROOM = """
<mujoco>
  <visual><map znear="0.01" zfar="20"/></visual>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="4 4 .1" pos="0 0 0" group="1"/>
    <geom type="box" size="4 .1 4" pos="0 3 0" group="1"/>
    <body name="box" pos="0 1.5 1">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/><joint type="slide" axis="0 0 1"/>
      <geom type="box" size=".2 .2 .15" group="1"/>
    </body>
    <body name="head" pos="0 0 1">
      <joint type="hinge" axis="0 0 1"/><joint type="hinge" axis="1 0 0"/>
      <geom size=".01" group="3"/>
      <camera name="eye" xyaxes="1 0 0 0 0 1" fovy="50"/>
    </body>
  </worldbody>
</mujoco>
"""
"""A camera at (0, 0, 1) that looks along +y and can turn, and a box that slides; its front face is at y = 1.3."""


@pytest.fixture(scope="module")
def room() -> Iterator[tuple[mujoco.MjModel, mujoco.MjData, Renderer]]:
    model = mujoco.MjModel.from_xml_string(ROOM)
    renderer = Renderer(model, Look.FAST, SIZE)
    yield model, mujoco.MjData(model), renderer
    renderer.close()


def seen(room: tuple[mujoco.MjModel, mujoco.MjData, Renderer], qpos: list[float]) -> Moment:
    model, data, renderer = room
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    depth, geom = renderer.depth_and_ids(data, 0)
    eye = camera(model, data, 0, SIZE)
    upright = (convert_image(x[..., None], ImageFrame.GL, ImageFrame.UPRIGHT)[..., 0] for x in (depth, geom))
    poses = data.geom_xpos.copy(), data.geom_xmat.reshape(-1, 3, 3).copy()
    return Moment(*upright, *poses, eye.position, eye.rotation, eye.focal_px)


def pixels() -> np.ndarray:
    """Their centres: float [SIZE, SIZE, 2]."""
    columns, rows = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    return np.stack([columns, rows], -1)


def test_a_camera_that_turns_moves_everything_by_one_homography(room) -> None:
    turn, nod = 0.06, -0.04
    first, later = seen(room, [0, 0, 0, 0, 0]), seen(room, [0, 0, 0, turn, nod])
    field = exact_flow(first, later)
    middle = SIZE / 2
    ray = np.concatenate([(pixels() - middle) / first.focal_px * [1, -1], np.full((SIZE, SIZE, 1), -1.0)], -1)
    c, s, cn, sn = np.cos(turn), np.sin(turn), np.cos(nod), np.sin(nod)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cn, -sn], [0, sn, cn]])
    axes = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # of the camera in its body: columns right, up, back
    moved = ray @ (axes.T @ turned.T @ axes).T
    expected = middle + first.focal_px * moved[..., :2] / -moved[..., 2:] * [1, -1] - pixels()
    assert field.valid.mean() > 0.95
    assert np.linalg.norm(expected, axis=-1).min() > 4
    np.testing.assert_allclose(field.flow_px[field.valid], expected[field.valid], atol=0.05)


def test_a_box_that_slides_moves_its_front_face_as_its_depth_says(room) -> None:
    step = np.array([0.12, -0.1, 0.05])
    first, later = seen(room, [0] * 5), seen(room, [*step, 0, 0])
    field = exact_flow(first, later)
    front = (first.geom == 2) & (np.abs(first.depth_m - 1.3) < 0.01)
    middle, focal = SIZE / 2, first.focal_px
    x, z = ((pixels() - middle) / focal * [1, -1] * 1.3)[front].T  # m, right and up
    depth = 1.3 + step[1]
    end = middle + focal * np.stack([(x + step[0]) / depth, -(z + step[2]) / depth], -1)
    assert front.sum() > 500
    np.testing.assert_allclose(field.flow_px[front], end - pixels()[front], atol=0.05)
    rest = field.valid & (first.geom != 2)
    assert np.abs(field.flow_px[rest]).max() < 1e-6
    hidden = rest & (later.geom == 2)  # the wall where the box arrives
    assert hidden.sum() > 100
    assert field.occluded[cv2.erode(hidden.astype(np.uint8), np.ones((5, 5))) == 1].all()
    assert not field.occluded[
        cv2.dilate(((first.geom == 2) | (later.geom == 2)).astype(np.uint8), np.ones((5, 5))) == 0
    ].any()


# ------------------------------------------------------------------ LIBERO


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    made = LiberoEnv(Subset.GOAL, 7, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=256))
    made.reset(seed=1)
    made.settle(5)
    yield made
    made.close()


def glimpse(env: LiberoEnv, name: str) -> tuple[Moment, np.ndarray]:
    """What a camera sees, and its picture: float32 [H, W, 3], UPRIGHT."""
    picture = convert_image(env.render(name), ImageFrame.GL, ImageFrame.UPRIGHT)
    return moment(env, name), picture.astype(np.float32)


@pytest.fixture(scope="module")
def before_and_after(env: LiberoEnv) -> dict[str, list[tuple[Moment, np.ndarray]]]:
    """The hand moves for five steps, and the bowl is shifted."""
    views = {name: [glimpse(env, name)] for name in CAMERAS}
    for _ in range(5):
        env.step(np.array([0.6, -0.5, -0.7, 0, 0, 0.5, -1]))
    bowl = env.model.body_jntadr[env.body_of("akita_black_bowl_1")]
    state = env.state()
    start = 1 + env.model.jnt_qposadr[bowl]
    state[start : start + 3] += [0.03, 0.05, 0.02]
    env.set_state(state)
    for name, views_of in views.items():
        views_of.append(glimpse(env, name))
    return views


@pytest.mark.parametrize("name", CAMERAS)
def test_the_later_picture_carried_back_is_the_first(before_and_after, name: str) -> None:
    (first, picture), (later, later_picture) = before_and_after[name]
    field = exact_flow(first, later)
    columns, rows = np.meshgrid(np.arange(256, dtype=np.float32), np.arange(256, dtype=np.float32))
    ends = field.flow_px + np.stack([columns, rows], -1)
    carried = cv2.remap(later_picture, ends[..., 0], ends[..., 1], cv2.INTER_LINEAR)
    moving = field.valid & ~field.occluded & (np.linalg.norm(field.flow_px, axis=-1) > 2)
    assert moving.sum() > 1000
    error, unmoved = (np.abs(p - picture)[moving].mean() for p in (carried, later_picture))
    assert error < 0.3 * unmoved, (name, error, unmoved)


def test_agentview_stands_still_and_the_wrist_camera_goes_with_the_hand(env: LiberoEnv, before_and_after) -> None:
    length = {}
    for name in CAMERAS:
        (first, _), (later, _) = before_and_after[name]
        field = exact_flow(first, later)
        hand = env.model.body("gripper0_right_gripper").id
        of_hand = np.isin(first.geom, np.flatnonzero(env.model.geom_bodyid == hand))
        table = np.isin(first.geom, [g for g in range(env.model.ngeom) if "table" in env.model.geom(g).name])
        length[name] = [np.linalg.norm(field.flow_px, axis=-1)[field.valid & mask] for mask in (of_hand, table)]
    assert np.median(length[AGENTVIEW][0]) > 5
    assert length[AGENTVIEW][1].max() < 1e-6
    assert length[WRIST][0].max() < 0.05
    assert np.median(length[WRIST][1]) > 5
