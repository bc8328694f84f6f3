"""Features against independent measurements: a marker at the grip site, boxes, flow against pictures; the stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import AnnotatorConfig, EnvConfig
from configs.slices import AnnotateSlice, FlowSlice
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem, Episode, EpisodeId, Interrupted, StageContext
from data_pipeline.ecot_annotator import run_annotate
from data_pipeline.hdf5_layout import DemoRecord, DemoWriter, TaskInfo
from data_pipeline.image_frame import ImageFrame, convert_image
from data_pipeline.libero_utils import demo_file, task_names
from data_pipeline.scene import Goal
from data_pipeline.sidecar import load_annotations
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.features import Replayer, moment, tight_box
from data_pipeline.sim.goals import task_goals, task_names_of
from flow_pipeline.exact_flow import exact_flow
from flow_pipeline.flow_field import load_flow
from flow_pipeline.raft_processor import run_flow

pytestmark = pytest.mark.sim

CONFIG = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=256)
SMALL = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128)
STEPS = 14
SOUP, BASKET = "alphabet_soup_1", "basket_1"


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    made = LiberoEnv(Subset.OBJECT, 0, CONFIG)
    yield made
    made.close()


@pytest.fixture(scope="module")
def recorded(env: LiberoEnv) -> Episode:
    """The hand moves towards the soup for STEPS steps."""
    env.reset(seed=1)
    env.settle(5)
    start = env.data.body(env.body_of(SOUP)).xpos - env.grip_site_position()
    direction = np.append(np.clip(start / np.abs(start).max(), -1, 1), [0, 0, 0.3, -1])
    states = []
    for _ in range(STEPS):
        states.append(env.state())
        env.step(direction)
    return Episode(
        id=EpisodeId(Subset.OBJECT, 0, 0),
        task_name=env.task_name,
        instruction=env.instruction,
        actions=np.tile(direction, (STEPS, 1)).astype(np.float32),
        proprio=np.zeros((STEPS, 8), np.float32),
        states=np.array(states),
        fixtures=env.fixture_poses(),
        fingerprint={},
        success=False,
        read_frames=lambda camera: np.zeros((STEPS, 1, 1, 3), np.uint8),
    )


@pytest.fixture(scope="module")
def replayer(env: LiberoEnv) -> Replayer:
    made = Replayer(CONFIG)
    made._env = env  # the module's own, to build it once
    return made


def test_what_leaves_the_picture_or_hides_has_no_box(env: LiberoEnv, recorded: Episode, replayer: Replayer) -> None:
    states = recorded.states[:2].copy()
    address = 1 + env.model.joint(env.raw.get_object(SOUP).joints[0]).qposadr[0]
    states[0, address : address + 3] = [0, 3, 0.1]
    states[1, address : address + 3] = env.data.body(env.body_of(BASKET)).xpos - [0, 0, 0.4]  # below the floor
    changed = Episode(**{**vars(recorded), "states": states, "actions": recorded.actions[:2]})
    track = replayer.track(changed)
    assert np.isnan(track.box[:, 0]).all()
    assert not track.visible[:, 0].any()
    assert (track.visible[:, 1] > 0.8).all()


def test_without_states_the_remedy_is_named(recorded: Episode, replayer: Replayer) -> None:
    with pytest.raises(EnvironmentProblem, match=r"regenerate_libero\.py --libero_task_suite libero_object"):
        replayer.track(Episode(**{**vars(recorded), "states": None}))


def test_fixtures_of_another_task_are_refused(recorded: Episode, replayer: Replayer) -> None:
    with pytest.raises(EnvironmentProblem, match="fixtures"):
        replayer.track(Episode(**{**vars(recorded), "fixtures": {"x": (0.0,) * 7}}))


def test_flow_carries_the_first_picture_to_a_later_one(env: LiberoEnv, recorded: Episode) -> None:
    """Photometric: what is visible in both pictures looks the same at the end of its flow."""
    moments, pictures = [], []
    for step in (2, 6):
        env.set_state(recorded.states[step])
        moments.append(moment(env))
        pictures.append(convert_image(env.render(AGENTVIEW), ImageFrame.GL, ImageFrame.UPRIGHT).astype(np.float32))
    field = exact_flow(*moments)
    columns, rows = np.meshgrid(np.arange(256, dtype=np.float32), np.arange(256, dtype=np.float32))
    ends = field.flow_px + np.stack([columns, rows], -1)
    warped = cv2.remap(pictures[1], ends[..., 0], ends[..., 1], cv2.INTER_LINEAR)
    moving = field.valid & ~field.occluded & (np.linalg.norm(field.flow_px, axis=-1) > 2)
    assert moving.sum() > 1000
    error, unmoved = (np.abs(p - pictures[0])[moving].mean() for p in (warped, pictures[1]))
    assert error < 0.4 * unmoved
    still = field.valid & (np.linalg.norm(field.flow_px, axis=-1) < 1e-3)
    assert still.mean() > 0.5


def test_flow_of_the_grip_site_agrees_with_its_projection(
    env: LiberoEnv, recorded: Episode, replayer: Replayer
) -> None:
    """The finger's surface nearest to the grip site moves as the site does: the same pixels, the same frame."""
    track = replayer.track(recorded)
    hand = [g for g in range(env.model.ngeom) if "finger" in env.model.geom(g).name]
    moments = []
    for step in (2, 6):
        env.set_state(recorded.states[step])
        moments.append(moment(env))
    field = exact_flow(*moments)
    turned = np.median(field.flow_px[np.isin(moments[0].geom, hand)], axis=0) * [-1, 1]  # UPRIGHT -> ROT180 at 256 px
    np.testing.assert_allclose(turned, track.grip_point[6] - track.grip_point[2], atol=2)


def test_goals_and_names_of_tasks_with_parts() -> None:
    env = LiberoEnv(Subset.GOAL, 3, SMALL)
    goals = task_goals(env)
    assert goals == (
        Goal("in", "akita_black_bowl_1", "wooden_cabinet_1_top_region"),
        Goal("open", "wooden_cabinet_1_top_region"),
    )
    assert task_names_of(env, goals) == ("akita_black_bowl_1", "wooden_cabinet_1")
    env.close()


def test_tight_box_of_nothing() -> None:
    assert np.isnan(tight_box(np.zeros((4, 4), bool))).all()


# ------------------------------------------------------------------ the stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recorded: Episode) -> Path:
    """Two demonstrations as `regenerate` leaves them."""
    path = tmp_path_factory.mktemp("regenerated")
    name = task_names(Subset.OBJECT)[0]
    with DemoWriter(demo_file(path, Subset.OBJECT, 0), TaskInfo(name, recorded.instruction)) as writer:
        for demo, steps in enumerate((STEPS, STEPS - 4)):
            widths = {"ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}
            record = DemoRecord(
                actions=recorded.actions[:steps].astype(np.float64),
                states=recorded.states[:steps],
                observations={key: np.zeros((steps, width)) for key, width in widths.items()},
                images={c: np.zeros((steps, 8, 8, 3), np.uint8) for c in ("agentview", "robot0_eye_in_hand")},
                init_state=recorded.states[0],
                settle_steps=0,
                fixture_poses=recorded.fixtures,
                seed=0,
                fingerprint={},
                success=True,
            )
            writer.add(demo, record)
    return path


class StopAfter:
    """Asks to stop at the n-th question."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(
    ("stage", "config", "output"),
    [
        (run_annotate, AnnotateSlice(Subset.OBJECT, AnnotatorConfig(), SMALL), "annotations.json"),
        (run_flow, FlowSlice(Subset.OBJECT, "sim", 4, SMALL), "flow.npz"),
    ],
)
def test_an_interrupted_stage_ends_in_the_same_bytes(folder: Path, tmp_path: Path, stage, config, output) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    whole.mkdir()
    resumed.mkdir()
    inputs = {"regenerate": folder}
    assert stage(config, StageContext(whole, inputs)) == [output]
    with pytest.raises(Interrupted):
        stage(config, StageContext(resumed, inputs, stop_requested=StopAfter(1)))
    assert len(list((resumed / "parts").iterdir())) == 1
    stage(config, StageContext(resumed, inputs))
    assert (whole / output).read_bytes() == (resumed / output).read_bytes()
    if output == "flow.npz":
        flows, manifest = load_flow(whole / output)
        assert manifest["backend"] == "sim"
        assert [f.flow.shape for f in flows.values()] == [(STEPS, 32, 32, 2), (STEPS - 4, 32, 32, 2)]
        first = next(iter(flows.values()))
        assert first.flow[0].any()
        assert not first.flow[-1].any()
    else:
        annotations = load_annotations(whole / output)
        assert [len(a.steps) for a in annotations.values()] == [STEPS, STEPS - 4]
        assert "alphabet soup" in next(iter(annotations.values())).steps[0].subtask
