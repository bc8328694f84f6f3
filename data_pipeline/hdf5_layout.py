"""LIBERO's HDF5 layout as we write it: one file per task, ``<task name>_demo.hdf5``, one group per demonstration.

``data/demo_i/{actions, states, robot_states, rewards, dones, obs/{agentview_rgb, eye_in_hand_rgb, ee_pos, ee_ori,
ee_states, gripper_states, joint_states}}``, row t before action t, images bottom-up (ImageFrame.GL). Our own files add
the demo attributes that make a replay exact: init_state *before* settling, settle_steps, resume_gripper (only where
init_state is mid-episode, see `LiberoEnv.resume`), fixture_poses, seed, fingerprint, success; and expert_phases, what
the scripted expert was about, as [first step, phase] pairs. The same demonstrations give the same bytes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from data_pipeline.contract import AGENTVIEW, WRIST
from data_pipeline.whole_files import written_whole

IMAGE_KEYS = {AGENTVIEW: "agentview_rgb", WRIST: "eye_in_hand_rgb"}
OBSERVATION_WIDTHS = {"ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}
SUFFIX = "_demo.hdf5"
# Deflate level 1, one chunk per frame: half a millisecond per 128 px frame, less than half the size of raw pixels, and
# readable by any HDF5 (lzf is a third faster and a third larger).
IMAGE_COMPRESSION = {"compression": "gzip", "compression_opts": 1}
# A fixed range of format versions and no time stamps: the same demonstrations give the same bytes.
FORMAT = ("v110", "v110")


@dataclass(frozen=True)
class TaskInfo:
    """What a file says about its task; the attributes of the group ``data``."""

    task_name: str  # the BDDL file's stem
    instruction: str
    problem_name: str = ""  # LIBERO's problem class, e.g. libero_floor_manipulation
    bddl_file_name: str = ""
    bddl_file_content: str = ""
    env_args: Mapping[str, Any] = field(default_factory=dict)  # JSON values


@dataclass(frozen=True)
class DemoRecord:
    """One demonstration as it is written. Row t of every array is what held before action t."""

    actions: np.ndarray  # float64 [T, 7], exactly as executed
    states: np.ndarray | None  # float64 [T, S]: flattened MuJoCo state (time, qpos, qvel); None without a simulator
    observations: Mapping[str, np.ndarray]  # float64 [T, n] for each of OBSERVATION_WIDTHS
    images: Mapping[str, np.ndarray]  # camera (AGENTVIEW, WRIST) -> uint8 [T, H, W, 3], ImageFrame.GL
    success: bool
    init_state: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 [S]: set before settling
    settle_steps: int = 0  # no-op steps between init_state and row 0
    resume_gripper: float | None = None  # command of the gripper so far, where init_state is mid-episode
    fixture_poses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # as LiberoEnv.fixture_poses
    seed: int = 0  # of the reset
    expert_phases: Sequence[str] = ()  # [T], what each action was for, "lift milk_1", of our own expert; else nothing
    fingerprint: Mapping[str, Any] = field(default_factory=dict)  # as LiberoEnv.fingerprint
    model_file: str = ""  # MJCF of official demonstrations; ours are rebuilt from the task and fixture_poses


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def phase_starts(phases: Sequence[str]) -> list[list[Any]]:
    """[first step, phase] wherever the phase changes, the first included."""
    return [[t, phase] for t, phase in enumerate(phases) if t == 0 or phase != phases[t - 1]]


def phases_of(starts: Sequence[tuple[int, str]], steps: int) -> tuple[str, ...]:
    """Inverse of `phase_starts`: one phase per step, () where there are none."""
    known = dict(starts)
    return tuple(itertools.accumulate((known.get(t, "") for t in range(steps)), lambda a, b: b or a)) if known else ()


def _robot_states(observations: Mapping[str, np.ndarray]) -> np.ndarray:
    """[T, 9]: finger joints (2), end-effector position (3) and quaternion xyzw (4), as the official writer has them."""
    quaternion = Rotation.from_rotvec(observations["ee_ori"]).as_quat()
    return np.concatenate([observations["gripper_states"], observations["ee_pos"], quaternion], axis=1)


def _check_record(record: DemoRecord, name: str) -> None:
    steps = len(record.actions)
    arrays = {"actions": record.actions, **_states(record), **record.observations, **record.images}
    wrong = {key: len(array) for key, array in arrays.items() if len(array) != steps}
    missing = set(OBSERVATION_WIDTHS) - set(record.observations) | set(IMAGE_KEYS) - set(record.images)
    if steps == 0 or wrong or missing:
        raise ValueError(f"{name}: {steps} actions, other lengths {wrong}, missing {sorted(missing)}")


def _states(record: DemoRecord) -> dict[str, np.ndarray]:
    return {} if record.states is None else {"states": record.states}


def _write_group(parent: h5py.Group, name: str, record: DemoRecord) -> None:
    _check_record(record, name)
    group = parent.create_group(name)
    steps = len(record.actions)
    last = np.zeros(steps, np.uint8)
    last[-1] = record.success
    columns = {"actions": record.actions, **_states(record), "robot_states": _robot_states(record.observations)}
    for key, values in columns.items():
        group.create_dataset(key, data=np.asarray(values, np.float64), track_times=False)
    for key in ("rewards", "dones"):
        group.create_dataset(key, data=last, track_times=False)
    observations = group.create_group("obs")
    for key in OBSERVATION_WIDTHS:
        values = np.asarray(record.observations[key], np.float64)
        observations.create_dataset(key, data=values, track_times=False)
    for camera, key in IMAGE_KEYS.items():
        frames = np.asarray(record.images[camera], np.uint8)
        chunk = (1, *frames.shape[1:])
        observations.create_dataset(key, data=frames, chunks=chunk, track_times=False, **IMAGE_COMPRESSION)
    group.attrs["num_samples"] = steps
    group.attrs["model_file"] = record.model_file
    group.attrs["init_state"] = np.asarray(record.init_state, np.float64)
    group.attrs["settle_steps"] = record.settle_steps
    if record.resume_gripper is not None:
        group.attrs["resume_gripper"] = record.resume_gripper
    group.attrs["fixture_poses"] = _json({k: list(map(float, v)) for k, v in record.fixture_poses.items()})
    group.attrs["seed"] = record.seed
    if record.expert_phases:
        group.attrs["expert_phases"] = _json(phase_starts(record.expert_phases))
    group.attrs["fingerprint"] = _json(record.fingerprint)
    group.attrs["success"] = record.success


def write_demo(path: Path, record: DemoRecord) -> None:
    """One demonstration in a file of its own (group ``demo``), atomically; `DemoWriter.add_file` collects them."""
    with written_whole(path) as partial, h5py.File(partial, "w", libver=FORMAT) as file:
        _write_group(file, "demo", record)


def copy_demo(source: Path, demo: int, target: Path) -> None:
    """Copy one demonstration of a task's file, compressed bytes as they are, to what `write_demo` would write."""
    with (
        written_whole(target) as partial,
        h5py.File(source, "r", locking=False) as file,
        h5py.File(partial, "w", libver=FORMAT) as out,
    ):
        file.copy(file[f"data/demo_{demo}"], out, name="demo")


def _steps(group: Any) -> int:
    return int(group.attrs["num_samples"])


class DemoWriter:
    """Writes one task's file. A context manager: the file appears under its name only on a clean exit.

    The same demonstrations added in the same order give the same bytes.
    """

    def __init__(self, path: Path, info: TaskInfo) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._info = info
        self._total = 0

    def __enter__(self) -> DemoWriter:
        self._file = h5py.File(self._partial, "w", libver=FORMAT)
        self._data = self._file.create_group("data")
        return self

    def add(self, demo: int, record: DemoRecord) -> None:
        """Write ``data/demo_<demo>``. Raises ValueError where lengths differ or a key is missing."""
        _write_group(self._data, f"demo_{demo}", record)
        self._total += len(record.actions)

    def add_file(self, demo: int, path: Path) -> None:
        """Copy what `write_demo` wrote, compressed bytes as they are, to ``data/demo_<demo>``."""
        with h5py.File(path, "r") as source:
            source.copy(source["demo"], self._data, name=f"demo_{demo}")
            self._total += _steps(source["demo"])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._write_attributes()
        self._file.close()
        if kind is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def _write_attributes(self) -> None:
        info, attributes = self._info, self._data.attrs
        problem = {
            "problem_name": info.problem_name,
            "domain_name": "robosuite",
            "language_instruction": info.instruction,
        }
        attributes["env_name"] = info.problem_name
        attributes["problem_info"] = _json(problem)
        attributes["bddl_file_name"] = info.bddl_file_name
        attributes["bddl_file_content"] = info.bddl_file_content
        attributes["env_args"] = _json(info.env_args)
        attributes["macros_image_convention"] = "opengl"
        attributes["num_demos"] = len(self._data)
        attributes["total"] = self._total
