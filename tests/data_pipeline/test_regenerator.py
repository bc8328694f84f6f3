"""Regeneration: the no-op filter, what is kept and dropped, exact reuse of images, resume; then the real simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import RegenerateSlice
from data_pipeline.contract import (
    AGENTVIEW,
    CAMERAS,
    EnvironmentProblem,
    EpisodeId,
    Interrupted,
    SimulationUnstableError,
    StageContext,
)
from data_pipeline.hdf5_layout import OBSERVATION_WIDTHS, DemoRecord, DemoWriter, TaskInfo, write_demo
from data_pipeline.libero_regenerator import make_libero_env, regenerate
from data_pipeline.libero_utils import demo_file, task_names
from data_pipeline.metainfo import read_metainfo, table
from data_pipeline.raw_loader import Hdf5Source, read_replay
from data_pipeline.replay import cannot_start, max_deviation, noop_mask, regenerate_demo, replay
from tests.helpers.synthetic import smooth_actions


class FakeEnv:
    """A point that integrates its actions; solved while x is at least 0.5. Counts what it draws."""

    drawn = 0
    made = 0
    resumed: list[float] = []  # noqa: RUF012 - of every environment

    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        FakeEnv.made += 1
        self.config = config
        self.position = np.zeros(4)
        self.fixtures: dict[str, tuple[float, ...]] = {"shelf_main": (0.0,) * 7}

    def reset(self, seed: int, init_state: int | np.ndarray | None = None) -> None:
        self.fixtures = {"shelf_main": (float(seed), *(0.0,) * 6)}
        assert isinstance(init_state, np.ndarray)
        self.set_state(init_state)

    def settle(self, steps: int = 10) -> None:
        self.position[0] += steps

    def resume(self, gripper: float) -> None:
        FakeEnv.resumed.append(gripper)

    def step(self, action: np.ndarray) -> bool:
        self.position += [1, *action[:3]]
        return self.success()

    def success(self) -> bool:
        return bool(self.position[1] >= 0.5)

    def render(self, camera: str) -> np.ndarray:
        FakeEnv.drawn += 1
        value = int(abs(self.position[1]) * 100) % 256
        return np.full((self.config.resolution // 8, self.config.resolution // 8, 3), value, np.uint8)

    def observation_extras(self) -> dict[str, np.ndarray]:
        return {key: np.full(width, self.position[1]) for key, width in OBSERVATION_WIDTHS.items()}

    def state(self) -> np.ndarray:
        return self.position.copy()

    def set_state(self, state: np.ndarray) -> None:
        self.position = state.copy()

    def fixture_poses(self) -> dict[str, tuple[float, ...]]:
        return self.fixtures

    def set_fixture_poses(self, poses: Mapping[str, tuple[float, ...]]) -> None:
        self.fixtures = dict(poses)

    def fingerprint(self) -> dict[str, Any]:
        return {"resolution": self.config.resolution}

    def close(self) -> None:
        pass


def fake_env(subset: Subset, task_id: int, config: EnvConfig) -> Any:
    return FakeEnv(subset, task_id, config)


def moving_actions(steps: int, x_per_step: float = 0.1) -> np.ndarray:
    actions = np.zeros((steps, 7))
    actions[:, 0] = x_per_step
    actions[:, 6] = -1
    return actions


def record_of(env: Any, actions: np.ndarray, init_state: np.ndarray, seed: int, settle_steps: int) -> DemoRecord:
    """A demonstration as an expert would have recorded it."""
    env.reset(seed, init_state)
    env.settle(settle_steps)
    states, extras, images, success = [], [], {camera: [] for camera in CAMERAS}, False
    for action in actions:
        states.append(env.state())
        extras.append(env.observation_extras())
        for camera in CAMERAS:
            images[camera].append(env.render(camera))
        success = env.step(action)
    return DemoRecord(
        actions=actions,
        states=np.array(states),
        observations={key: np.array([e[key] for e in extras]) for key in OBSERVATION_WIDTHS},
        images={camera: np.array(frames) for camera, frames in images.items()},
        init_state=init_state,
        settle_steps=settle_steps,
        fixture_poses=env.fixture_poses(),
        seed=seed,
        fingerprint=env.fingerprint(),
        success=success,
    )


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Tasks 0 and 3 of object, demonstrations 2, 5 and 17; task 3's number 5 fails."""
    folder = tmp_path / "demos"
    folder.mkdir()
    for task in (0, 3):
        name = task_names(Subset.OBJECT)[task]
        env = FakeEnv(Subset.OBJECT, task, EnvConfig(resolution=64))
        with DemoWriter(demo_file(folder, Subset.OBJECT, task), TaskInfo(name, "do it")) as writer:
            for demo in (2, 5, 17):
                slow = task == 3 and demo == 5
                actions = moving_actions(8 + demo, 0.001 if slow else 0.1)
                writer.add(demo, record_of(env, actions, np.zeros(4), seed=demo, settle_steps=3))
    return folder


def run(
    demos: Path, work: Path, resolution: int = 64, workers: int = 1, skip_bad: bool = False, **context: Any
) -> list[str]:
    work.mkdir(exist_ok=True)
    config = RegenerateSlice(Subset.OBJECT, EnvConfig(resolution=resolution), skip_bad, workers)
    return regenerate(config, StageContext(work=work, inputs={"demos": demos}, **context), fake_env)


def metainfo(work: Path) -> dict[str, Any]:
    return json.loads((work / "libero_object_metainfo.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ the filter


def test_a_noop_has_no_motion_and_the_gripper_of_the_last_action_kept() -> None:
    actions = np.zeros((6, 7))
    actions[:, 6] = [-1, -1, 1, 1, -1, -1]
    actions[5, 0] = 0.01
    assert noop_mask(actions).tolist() == [True, True, True, True, True, False]
    actions[0, 2] = 0.5  # from here on the gripper has been seen open
    assert noop_mask(actions).tolist() == [False, True, False, True, False, False]


def test_noop_threshold_is_on_the_norm_of_the_six_pose_deltas() -> None:
    actions = np.zeros((2, 7))
    actions[0, :6] = 0.99e-4 / np.sqrt(6)
    actions[1, :6] = 1.01e-4 / np.sqrt(6)
    assert noop_mask(actions).tolist() == [True, False]


def test_smooth_motion_has_no_noops() -> None:
    assert not noop_mask(smooth_actions(np.random.default_rng(0), 50)).any()


def test_max_deviation() -> None:
    assert max_deviation(np.zeros((2, 3)), np.full((2, 3), 0.25)) == 0.25
    assert max_deviation(np.zeros((2, 3)), np.zeros((2, 4))) == float("inf")


# ------------------------------------------------------------------ one demonstration


def test_noops_are_not_executed(tmp_path: Path) -> None:
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=64))
    actions = moving_actions(10)
    actions[4:6, :6] = 0
    source = tmp_path / demo_file(tmp_path, Subset.OBJECT, 0).name
    record = record_of(env, actions, np.zeros(4), seed=1, settle_steps=2)
    with DemoWriter(source, TaskInfo("task", "do it")) as writer:
        writer.add(0, replace(record, expert_phases=[*["reach milk_1"] * 5, *["grasp milk_1"] * 5]))
    assert read_replay(source, 0).expert_phases[4:6] == ("reach milk_1", "grasp milk_1")
    verdict = regenerate_demo(env, source, 0, tmp_path / "part.hdf5")  # type: ignore[arg-type]
    assert (verdict.steps, verdict.noops_removed, verdict.images) == (8, 2, "rendered")
    with h5py.File(tmp_path / "part.hdf5") as file:
        assert json.loads(file["demo"].attrs["expert_phases"]) == [[0, "reach milk_1"], [4, "grasp milk_1"]]
    assert verdict.max_state_deviation is None
    assert verdict.success


def test_a_demonstration_of_noops_only_is_dropped(tmp_path: Path) -> None:
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=64))
    with DemoWriter(tmp_path / "a.hdf5", TaskInfo("task", "do it")) as writer:
        writer.add(0, record_of(env, np.zeros((3, 7)), np.zeros(4), seed=1, settle_steps=0))
    verdict = regenerate_demo(env, tmp_path / "a.hdf5", 0, tmp_path / "part.hdf5")  # type: ignore[arg-type]
    assert verdict.dropped == "every action is a no-op"
    assert not (tmp_path / "part.hdf5").exists()


def test_another_trajectory_is_drawn_again_even_with_the_same_fingerprint(tmp_path: Path) -> None:
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=64))
    record = record_of(env, moving_actions(10), np.zeros(4), seed=1, settle_steps=2)
    record.states[7, 1] += 1e-5
    with DemoWriter(tmp_path / "a.hdf5", TaskInfo("task", "do it")) as writer:
        writer.add(0, record)
    verdict = regenerate_demo(env, tmp_path / "a.hdf5", 0, tmp_path / "part.hdf5")  # type: ignore[arg-type]
    assert verdict.images == "rendered"
    assert verdict.max_state_deviation == pytest.approx(1e-5)


# ------------------------------------------------------------------ the stage


def test_same_environment_reuses_images_and_keeps_numbers(demos: Path, tmp_path: Path) -> None:
    FakeEnv.drawn = 0
    outputs = run(demos, tmp_path / "work")
    assert FakeEnv.drawn == 0
    names = task_names(Subset.OBJECT)
    assert outputs == [f"{names[0]}_demo.hdf5", f"{names[3]}_demo.hdf5", "libero_object_metainfo.json"]
    assert [str(e) for e in Hdf5Source(tmp_path / "work", Subset.OBJECT).list()] == [
        "object/00/002", "object/00/005", "object/00/017", "object/03/002", "object/03/017",
    ]  # fmt: skip
    info = metainfo(tmp_path / "work")
    assert info[names[3]]["demo_5"]["dropped"] == "the task is not solved at the end of the replay"
    assert info[names[3]]["demo_5"]["success"] is False
    assert info[names[0]]["demo_17"] == {
        "success": True,
        "initial_state": [0.0, 0.0, 0.0, 0.0],
        "steps": 25,
        "noops_removed": 0,
        "images": "reused",
        "max_state_deviation": 0.0,
        "dropped": None,
        "skipped": False,
    }
    one = EpisodeId(Subset.OBJECT, 0, 5)
    before, after = (Hdf5Source(folder, Subset.OBJECT).open(one) for folder in (demos, tmp_path / "work"))
    assert np.array_equal(before.frames(AGENTVIEW), after.frames(AGENTVIEW))
    assert np.array_equal(before.actions, after.actions)


def test_another_resolution_is_drawn_and_replays_again_to_the_same_states(demos: Path, tmp_path: Path) -> None:
    run(demos, tmp_path / "work", resolution=128)
    source = Hdf5Source(tmp_path / "work", Subset.OBJECT)
    episode = source.open(EpisodeId(Subset.OBJECT, 0, 17))
    assert episode.frames(AGENTVIEW).shape == (25, 16, 16, 3)
    assert episode.fingerprint == {"resolution": 128}
    assert episode.fixtures == {"shelf_main": (17.0, *(0.0,) * 6)}
    start = read_replay(source.path(0), 17)
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=128))
    again = replay(env, start, start.actions, ())  # type: ignore[arg-type]
    assert np.array_equal(again.states, start.states)
    assert not again.images


def test_killed_and_resumed_gives_the_same_bytes_and_repeats_nothing(demos: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    outputs = run(demos, whole, resolution=128)
    FakeEnv.drawn = 0
    reports: list[int] = []

    def stop() -> bool:
        return len(reports) == 4  # the first report comes before any work

    with pytest.raises(Interrupted):
        run(demos, cut, resolution=128, report=lambda done, total, note: reports.append(done), stop_requested=stop)
    assert reports == [0, 1, 2, 3]
    drawn = FakeEnv.drawn
    (cut / "parts/03/0002.hdf5.partial").parent.mkdir(exist_ok=True)
    (cut / "parts/03/0002.hdf5.partial").write_bytes(b"torn")
    assert run(demos, cut, resolution=128) == outputs
    assert [(cut / name).read_bytes() for name in outputs] == [(whole / name).read_bytes() for name in outputs]
    assert drawn == 2 * (10 + 13 + 25)
    assert FakeEnv.drawn == 2 * drawn, "a finished demonstration was drawn again"


def test_workers_change_nothing(demos: Path, tmp_path: Path) -> None:
    outputs = run(demos, tmp_path / "one", resolution=128)
    run(demos, tmp_path / "two", resolution=128, workers=2)
    for name in outputs:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def spoil(demos: Path) -> None:
    """A NaN in demo_17 and a key missing in demo_2 of task 3."""
    with h5py.File(demo_file(demos, Subset.OBJECT, 3), "r+") as file:
        file["data/demo_17/actions"][2, 1] = np.nan
        del file["data/demo_2/obs/ee_pos"]


def test_a_bad_demonstration_stops_the_stage_before_any_replay(demos: Path, tmp_path: Path) -> None:
    spoil(demos)
    FakeEnv.made = 0
    with pytest.raises(ConfigError, match=r"demo_2/obs/ee_pos is missing(?s:.*)2 of 6 demonstrations.*--skip-bad"):
        run(demos, tmp_path / "work")
    assert FakeEnv.made == 0
    assert not list((tmp_path / "work").iterdir())


def test_bad_demonstrations_can_be_skipped_and_are_listed(demos: Path, tmp_path: Path) -> None:
    spoil(demos)
    path = demo_file(demos, Subset.OBJECT, 3)
    with DemoWriter(tmp_path / "more", TaskInfo(task_names(Subset.OBJECT)[3], "do it")) as writer:
        env = FakeEnv(Subset.OBJECT, 3, EnvConfig(resolution=64))
        writer.add(30, record_of(env, moving_actions(9), np.zeros(4), seed=1, settle_steps=3))
    with h5py.File(tmp_path / "more") as more, h5py.File(path, "r+") as file:
        more.copy(more["data/demo_30"], file["data"])
    run(demos, tmp_path / "work", skip_bad=True)
    task = task_names(Subset.OBJECT)[3]
    info = metainfo(tmp_path / "work")[task]
    assert list(info) == ["demo_2", "demo_5", "demo_17", "demo_30"]
    assert [info[demo]["skipped"] for demo in info] == [True, False, True, False]
    assert info["demo_17"]["dropped"].startswith(
        f"{path.name}: /data/demo_17/actions has a value that is not finite at step 2"
    )
    assert [e.demo for e in Hdf5Source(tmp_path / "work", Subset.OBJECT).list() if e.task_id == 3] == [30]
    lines = table(read_metainfo(tmp_path / "work" / "libero_object_metainfo.json")).splitlines()
    assert " ".join(lines[0].split()) == "task demos kept failed skipped noop steps reused rendered deviation"
    assert lines[2].split() == [task, "4", "1", "1", "2", "0", "1", "0", "0.0e+00"]
    assert lines[3].split() == ["together", "7", "4", "1", "2", "0", "4", "0", "0.0e+00"]
    assert lines[4].startswith(f"skipped: {task}, demo_2: {path.name}: /data/demo_2/obs/ee_pos is missing")
    assert lines[5] == f"failed: {task}, demo_5: the task is not solved at the end of the replay"


def test_a_demonstration_of_another_simulator_is_dropped_with_the_reason(demos: Path, tmp_path: Path) -> None:
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=64))
    start = read_replay(demo_file(demos, Subset.OBJECT, 0), 2)
    assert cannot_start(env, start) is None  # type: ignore[arg-type]
    wider = replace(start, init_state=np.zeros(9))
    assert "have 9 numbers, this simulator's 4" in str(cannot_start(env, wider))  # type: ignore[arg-type]
    unplaced = replace(start, fixture_poses={"robot0_base": (0.0,) * 7})
    assert "the places of shelf_main are unknown" in str(cannot_start(env, unplaced))  # type: ignore[arg-type]


def test_official_demonstrations_start_from_their_first_state_and_their_own_fixtures(
    demos: Path, tmp_path: Path
) -> None:
    path = demo_file(demos, Subset.OBJECT, 0)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for name in ("settle_steps", "fixture_poses", "seed", "fingerprint", "success"):
                del demo.attrs[name]
            demo.attrs["model_file"] = '<mujoco><worldbody><body name="shelf_main" pos="1 2 3"/></worldbody></mujoco>'
    FakeEnv.resumed = []
    run(demos, tmp_path / "work")
    assert FakeEnv.resumed == [-1.0] * 3, "the gripper of the first action, for each demonstration of the one task"
    assert read_replay(demo_file(tmp_path / "work", Subset.OBJECT, 0), 2).resume_gripper == -1.0
    episode = Hdf5Source(tmp_path / "work", Subset.OBJECT).open(EpisodeId(Subset.OBJECT, 0, 2))
    before = Hdf5Source(demos, Subset.OBJECT).open(episode.id)
    assert episode.fixtures == {"shelf_main": (1.0, 2.0, 3.0, 1.0, 0.0, 0.0, 0.0)}
    assert episode.states is not None
    np.testing.assert_array_equal(episode.states, before.states)
    verdict = metainfo(tmp_path / "work")[task_names(Subset.OBJECT)[0]]["demo_2"]
    assert (verdict["images"], verdict["initial_state"][0]) == ("rendered", 3.0)  # after the source's settling


def test_where_the_physics_blows_up_one_demonstration_is_dropped(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FakeEnv.step

    def unstable(env: FakeEnv, action: np.ndarray) -> bool:
        if env.fixtures["shelf_main"][0] == 5.0:  # the seed of demo_5
            raise SimulationUnstableError("the simulation became unstable")
        return step(env, action)

    monkeypatch.setattr(FakeEnv, "step", unstable)
    run(demos, tmp_path / "work")
    info = metainfo(tmp_path / "work")[task_names(Subset.OBJECT)[0]]
    assert {demo: verdict["dropped"] for demo, verdict in info.items()} == {
        "demo_2": None,
        "demo_5": "the simulation became unstable",
        "demo_17": None,
    }


def test_no_survivor_in_a_task_says_so_and_a_repair_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demos"
    folder.mkdir()
    env = FakeEnv(Subset.OBJECT, 0, EnvConfig(resolution=64))
    with DemoWriter(demo_file(folder, Subset.OBJECT, 0), TaskInfo("task", "do it")) as writer:
        writer.add(0, record_of(env, moving_actions(5, 0.001), np.zeros(4), seed=0, settle_steps=0))
    with pytest.raises(EnvironmentProblem, match=r"none of 1 demonstrations survived.*not solved"):
        run(folder, tmp_path / "work")
    monkeypatch.setattr(FakeEnv, "success", lambda env: True)  # the simulator is mended
    assert run(folder, tmp_path / "work")


@pytest.mark.parametrize("torn", [b"", b'{"success": tr', b"\xff"])
def test_a_demonstration_whose_verdict_is_torn_is_replayed_again(demos: Path, tmp_path: Path, torn: bytes) -> None:
    outputs = run(demos, tmp_path / "work")
    whole = [(tmp_path / "work" / name).read_bytes() for name in outputs]
    (tmp_path / "work/parts/03/0002.json").write_bytes(torn)
    assert run(demos, tmp_path / "work") == outputs
    assert [(tmp_path / "work" / name).read_bytes() for name in outputs] == whole


# ------------------------------------------------------------------ the simulator


@pytest.mark.sim
def test_the_simulator_replays_a_demonstration_to_the_same_states(tmp_path: Path) -> None:
    config = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
    env = make_libero_env(Subset.GOAL, 0, config)  # a task with fixtures
    env.reset(7)
    actions = smooth_actions(np.random.default_rng(0), 40)
    record = record_of(env, actions, env.state(), seed=7, settle_steps=10)
    source, part = tmp_path / "a_demo.hdf5", tmp_path / "part.hdf5"
    with DemoWriter(source, TaskInfo(env.task_name, env.instruction)) as writer:
        writer.add(0, record)
    env.reset(123)  # something else in between
    env.settle(3)
    verdict = regenerate_demo(env, source, 0, part, keep_failures=True)
    assert verdict.images == "reused"
    assert verdict.max_state_deviation is not None
    assert verdict.max_state_deviation < 1e-9
    assert verdict.dropped is not None  # random motion solves nothing

    write_demo(tmp_path / "drawn.hdf5", record)
    seen = replay(env, read_replay(source, 0), actions, CAMERAS)
    for camera in CAMERAS:
        assert np.array_equal(seen.images[camera], record.images[camera])
    elsewhere = replace(read_replay(source, 0), seed=8)  # the reset puts the fixtures elsewhere; the stored poses win
    assert max_deviation(replay(env, elsewhere, actions, ()).states, record.states) < 1e-6
    env.close()
