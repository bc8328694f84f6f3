"""LIBERO's HDF5 layout, written and read: one file per task, ``<task name>_demo.hdf5``, one group per demonstration.

``data/demo_i/{actions, states, robot_states, rewards, dones, obs/{agentview_rgb, eye_in_hand_rgb, ee_pos, ee_ori,
ee_states, gripper_states, joint_states}}``, row t before action t, images bottom-up (ImageFrame.GL). Our own files add
the demo attributes that make a replay exact: init_state *before* settling, settle_steps, fixture_poses, seed,
fingerprint, success. Official files lack those; `read_replay` says what stands in for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from configs.schema import ConfigError, OfficialSlice, Subset
from data_pipeline.contract import ACTION_DIM, AGENTVIEW, WRIST, EnvironmentProblem, Episode, EpisodeId, StageContext
from data_pipeline.libero_utils import demo_file, task_names

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
    states: np.ndarray  # float64 [T, S]: flattened MuJoCo state (time, qpos, qvel)
    observations: Mapping[str, np.ndarray]  # float64 [T, n] for each of OBSERVATION_WIDTHS
    images: Mapping[str, np.ndarray]  # camera (AGENTVIEW, WRIST) -> uint8 [T, H, W, 3], ImageFrame.GL
    init_state: np.ndarray  # float64 [S]: the state that was set before settling
    settle_steps: int  # no-op steps between init_state and row 0
    fixture_poses: Mapping[str, tuple[float, ...]]  # as LiberoEnv.fixture_poses
    seed: int  # of the reset
    fingerprint: Mapping[str, Any]  # as LiberoEnv.fingerprint
    success: bool
    model_file: str = ""  # MJCF of official demonstrations; ours are rebuilt from the task and fixture_poses


@dataclass(frozen=True)
class ReplayStart:
    """What a replay needs of a demonstration, besides the simulator."""

    actions: np.ndarray  # float64 [T, 7]
    states: np.ndarray  # float64 [T, S], to compare with
    init_state: np.ndarray  # float64 [S]
    settle_steps: int
    fixture_poses: Mapping[str, tuple[float, ...]]
    seed: int
    fingerprint: Mapping[str, Any]  # {} for official files
    model_file: str = field(repr=False, default="")


# ------------------------------------------------------------------ writing


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _robot_states(observations: Mapping[str, np.ndarray]) -> np.ndarray:
    """[T, 9]: finger joints (2), end-effector position (3) and quaternion xyzw (4), as the official writer has them."""
    quaternion = Rotation.from_rotvec(observations["ee_ori"]).as_quat()
    return np.concatenate([observations["gripper_states"], observations["ee_pos"], quaternion], axis=1)


def _check_record(record: DemoRecord, name: str) -> None:
    steps = len(record.actions)
    arrays = {"actions": record.actions, "states": record.states, **record.observations, **record.images}
    wrong = {key: len(array) for key, array in arrays.items() if len(array) != steps}
    missing = set(OBSERVATION_WIDTHS) - set(record.observations) | set(IMAGE_KEYS) - set(record.images)
    if steps == 0 or wrong or missing:
        raise ValueError(f"{name}: {steps} actions, other lengths {wrong}, missing {sorted(missing)}")


def _write_group(parent: h5py.Group, name: str, record: DemoRecord) -> None:
    _check_record(record, name)
    group = parent.create_group(name)
    steps = len(record.actions)
    last = np.zeros(steps, np.uint8)
    last[-1] = record.success
    columns = {"actions": record.actions, "states": record.states, "robot_states": _robot_states(record.observations)}
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
    group.attrs["fixture_poses"] = _json({k: list(map(float, v)) for k, v in record.fixture_poses.items()})
    group.attrs["seed"] = record.seed
    group.attrs["fingerprint"] = _json(record.fingerprint)
    group.attrs["success"] = record.success


def write_demo(path: Path, record: DemoRecord) -> None:
    """One demonstration in a file of its own (group ``demo``), atomically; `DemoWriter.add_file` collects them."""
    partial_path = path.with_name(path.name + ".partial")
    with h5py.File(partial_path, "w", libver=FORMAT) as file:
        _write_group(file, "demo", record)
    os.replace(partial_path, path)


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
            self._total += len(source["demo/actions"])

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


# ------------------------------------------------------------------ reading


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading. Raises EnvironmentProblem on a file that is missing, truncated or damaged, then or later."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # locks fail on some network disks, and nobody writes
            yield file
    except OSError as error:
        size = f"{path.stat().st_size} bytes" if path.exists() else "no such file"
        raise EnvironmentProblem(
            f"cannot read {path} ({size}): {error}\nIt is truncated or damaged: download or generate it again."
        ) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read(group: h5py.Group, key: str, width: int | None = None, steps: int | None = None) -> np.ndarray:
    """A whole numeric data set [T, n], checked. Raises ConfigError that names file, demonstration and key."""
    where = f"{group.file.filename}: {group.name}/{key}"
    item = group.get(key)
    if not isinstance(item, h5py.Dataset):
        present = ", ".join(group)
        raise ConfigError(f"{where} is missing (present: {present}); remove this demonstration or make the file again")
    values = item[()]
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        raise ConfigError(f"{where} has shape {list(values.shape)}; expected [T, {width or 'n'}]")
    if len(values) == 0:
        raise ConfigError(f"{where} is empty; remove this demonstration or make the file again")
    if steps is not None and len(values) != steps:
        raise ConfigError(f"{where} has {len(values)} rows where actions has {steps}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ConfigError(f"{where} has a value that is not finite at step {row}; remove this demonstration")
    return values


def _demo_group(file: h5py.File, demo: int) -> h5py.Group:
    group = file.get(f"data/demo_{demo}")
    if not isinstance(group, h5py.Group):
        raise ConfigError(f"{file.filename}: data/demo_{demo} is missing")
    return group


def list_demos(path: Path) -> list[int]:
    """Numbers of the demonstrations in a file, sorted."""
    with open_hdf5(path) as file:
        data = file.get("data")
        names = list(data) if isinstance(data, h5py.Group) else []
    demos = sorted(int(name.removeprefix("demo_")) for name in names if name.removeprefix("demo_").isdigit())
    if not demos:
        raise ConfigError(f"{path}: no demonstrations (groups data/demo_0, data/demo_1, ...) in this file")
    return demos


def read_task_info(path: Path) -> TaskInfo:
    """The attributes of the group ``data``. Raises ConfigError where the instruction is missing."""
    with open_hdf5(path) as file:
        attributes = dict(file["data"].attrs) if "data" in file else {}
    try:
        problem = json.loads(_text(attributes["problem_info"]))
        instruction = "".join(problem["language_instruction"])  # some official files hold a list of characters
    except (KeyError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: attribute problem_info of data has no language_instruction ({error})") from error
    return TaskInfo(
        task_name=path.name.removesuffix(SUFFIX),
        instruction=instruction.strip().strip('"').lower(),
        problem_name=str(problem.get("problem_name", "")),
        bddl_file_name=_text(attributes.get("bddl_file_name", "")),
        bddl_file_content=_text(attributes.get("bddl_file_content", "")),
        env_args=json.loads(_text(attributes.get("env_args", "{}"))),
    )


def fixtures_of_model(model_file: str) -> dict[str, tuple[float, ...]]:
    """Poses of the fixtures in an official demonstration's MJCF: world bodies ``<name>_main`` that cannot move.

    Returns body name -> position (3, m) and quaternion wxyz (4).
    """
    world = ElementTree.fromstring(model_file).find("worldbody") if model_file else None
    poses: dict[str, tuple[float, ...]] = {}
    for body in world.findall("body") if world is not None else []:
        free = body.find("freejoint") is not None or any(j.get("type") == "free" for j in body.findall("joint"))
        if body.get("name", "").endswith("_main") and not free:
            values = f"{body.get('pos', '0 0 0')} {body.get('quat', '1 0 0 0')}".split()
            poses[body.get("name", "")] = tuple(float(v) for v in values)
    return poses


def _fixtures(group: h5py.Group) -> dict[str, tuple[float, ...]]:
    if "fixture_poses" in group.attrs:
        return {k: tuple(v) for k, v in json.loads(_text(group.attrs["fixture_poses"])).items()}
    return fixtures_of_model(_text(group.attrs.get("model_file", "")))


def _fingerprint(group: h5py.Group) -> dict[str, Any]:
    return json.loads(_text(group.attrs.get("fingerprint", "{}")))


def read_replay(path: Path, demo: int) -> ReplayStart:
    """How to play a demonstration again.

    Ours: from the stored state before settling. Official ones (no ``settle_steps``): from states[0], not settled,
    fixtures from their model_file.
    """
    with open_hdf5(path) as file:
        group = _demo_group(file, demo)
        actions = _read(group, "actions", ACTION_DIM)
        states = _read(group, "states", steps=len(actions))
        ours = "settle_steps" in group.attrs
        return ReplayStart(
            actions=actions,
            states=states,
            init_state=np.asarray(group.attrs["init_state"]) if ours else states[0],
            settle_steps=int(group.attrs["settle_steps"]) if ours else 0,
            fixture_poses=_fixtures(group),
            seed=int(group.attrs.get("seed", 0)),
            fingerprint=_fingerprint(group),
            model_file=_text(group.attrs.get("model_file", "")),
        )


def read_frames(path: Path, demo: int, camera: str) -> np.ndarray:
    """uint8 [T, H, W, 3], ImageFrame.GL."""
    with open_hdf5(path) as file:
        group = _demo_group(file, demo)
        item = group.get(f"obs/{IMAGE_KEYS[camera]}")
        if not isinstance(item, h5py.Dataset) or item.ndim != 4:
            raise ConfigError(f"{path}: {group.name}/obs/{IMAGE_KEYS[camera]} is missing or not [T, H, W, 3]")
        return item[()]


class Hdf5Source:
    """Episodes of one subset in a folder of LIBERO HDF5 files (an EpisodeSource). Nothing stays open between calls."""

    def __init__(self, folder: Path, subset: Subset) -> None:
        """Raises ConfigError where the folder holds no file of the subset, or a file that is not of it."""
        self.folder, self.subset = folder, subset
        names = task_names(subset)
        found = sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
        strange = [name for name in found if name not in names]
        if strange:
            raise ConfigError(f"{folder / (strange[0] + SUFFIX)} is not of a task of subset {subset.value}")
        if not found:
            raise ConfigError(f"{folder} holds no *{SUFFIX} of subset {subset.value}")
        self.tasks = tuple(sorted(names.index(name) for name in found))
        self._info: dict[int, TaskInfo] = {}

    def path(self, task_id: int) -> Path:
        """The file of one task."""
        return demo_file(self.folder, self.subset, task_id)

    def info(self, task_id: int) -> TaskInfo:
        """What the task's file says about the task."""
        if task_id not in self._info:
            self._info[task_id] = read_task_info(self.path(task_id))
        return self._info[task_id]

    def list(self) -> list[EpisodeId]:
        """All episodes, sorted."""
        return [EpisodeId(self.subset, task, demo) for task in self.tasks for demo in list_demos(self.path(task))]

    def open(self, episode: EpisodeId) -> Episode:
        """One episode; images are read when asked for. Raises ConfigError that names file, demonstration and key."""
        path, info = self.path(episode.task_id), self.info(episode.task_id)
        with open_hdf5(path) as file:
            group = _demo_group(file, episode.demo)
            actions = _read(group, "actions", ACTION_DIM)
            steps = len(actions)
            keys = ("ee_pos", "ee_ori", "gripper_states")
            proprio = [_read(group, f"obs/{key}", OBSERVATION_WIDTHS[key], steps) for key in keys]
            return Episode(
                id=episode,
                task_name=info.task_name,
                instruction=info.instruction,
                actions=actions.astype(np.float32),
                proprio=np.concatenate(proprio, axis=1).astype(np.float32),
                states=_read(group, "states", steps=steps) if "states" in group else None,
                fixtures=_fixtures(group),
                fingerprint=_fingerprint(group),
                success=bool(group.attrs.get("success", True)),  # the official files hold successes only
                read_frames=partial(read_frames, path, episode.demo),
            )

    def close(self) -> None:
        """Nothing is held open; here because other sources may hold something."""


# ------------------------------------------------------------------ the stage `official`


def file_digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_or_copy(source: Path, target: Path) -> None:
    partial_path = target.with_name(target.name + ".partial")
    partial_path.unlink(missing_ok=True)
    try:
        os.link(source, partial_path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, partial_path)
    os.replace(partial_path, target)


def run_official(config: OfficialSlice, context: StageContext) -> list[str]:
    """Stage `official`: put LIBERO's own files, checked against their digests, into the stage's output."""
    for done, (name, digest) in enumerate(config.files):
        context.checkpoint()
        context.report(done, len(config.files), name)
        source, target = Path(config.folder) / name, context.work / name
        if not source.is_file():
            raise EnvironmentProblem(f"{source} is missing; fetch the demonstrations of {config.subset.value} again")
        found = file_digest(source)
        if found != digest:
            raise EnvironmentProblem(f"{source} has changed: sha256 {found}, expected {digest}; start the run again")
        _link_or_copy(source, target)
    context.report(len(config.files), len(config.files), "")
    return [name for name, _ in config.files]
