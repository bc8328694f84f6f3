"""Read LIBERO's HDF5 demonstrations (the layout is in `hdf5_layout`), lazily and with errors that name the culprit.

Official files lack what makes a replay of ours exact; `read_replay` says what stands in for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from configs.schema import ConfigError, Subset
from configs.slices import OfficialSlice
from data_pipeline.contract import ACTION_DIM, EnvironmentProblem, Episode, EpisodeId, StageContext
from data_pipeline.hdf5_layout import IMAGE_KEYS, OBSERVATION_WIDTHS, SUFFIX, TaskInfo
from data_pipeline.libero_utils import demo_file, instruction, task_names


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


@contextmanager
def open_hdf5(path: Path) -> Generator[h5py.File]:
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


def _read_actions(group: h5py.Group) -> np.ndarray:
    """[T, 7], checked to lie in [-1, 1]."""
    actions = _read(group, "actions", ACTION_DIM)
    outside = np.argwhere(np.abs(actions) > 1 + 1e-6)
    if len(outside):
        step, dimension = outside[0].tolist()
        raise ConfigError(
            f"{group.file.filename}: {group.name}/actions is {actions[step, dimension]:g} at step {step}, dimension "
            f"{dimension}; allowed: -1 to 1 (OSC pose deltas, then the gripper)"
        )
    return actions


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
    """The attributes of the group ``data``, and the instruction that evaluation gives, which is the file's name.

    The file's own `language_instruction` is the BDDL sentence ("pick the akita black bowl ..."): training on it would
    teach sentences that no evaluation says.
    """
    with open_hdf5(path) as file:
        attributes = dict(file["data"].attrs) if "data" in file else {}
    try:
        problem = json.loads(_text(attributes.get("problem_info", "{}")))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: attribute problem_info of data is not JSON ({error})") from error
    task_name = path.name.removesuffix(SUFFIX)
    return TaskInfo(
        task_name=task_name,
        instruction=instruction(task_name),
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
        return {k: tuple(v) for k, v in _json_attribute(group, "fixture_poses").items()}
    return fixtures_of_model(_text(group.attrs.get("model_file", "")))


def _json_attribute(group: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON object; {} where there is none. Raises ConfigError that names file, demonstration and attribute."""
    try:
        return json.loads(_text(group.attrs.get(name, "{}")))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{group.file.filename}: {group.name}: attribute {name} is not JSON ({error})") from error


def read_replay(path: Path, demo: int) -> ReplayStart:
    """How to play a demonstration again.

    Ours: from the stored state before settling. Official ones (no ``settle_steps``): from states[0], not settled,
    fixtures from their model_file.
    """
    with open_hdf5(path) as file:
        group = _demo_group(file, demo)
        actions = _read_actions(group)
        states = _read(group, "states", steps=len(actions))
        ours = "settle_steps" in group.attrs
        return ReplayStart(
            actions=actions,
            states=states,
            init_state=np.asarray(group.attrs["init_state"]) if ours else states[0],
            settle_steps=int(_text(group.attrs["settle_steps"])) if ours else 0,
            fixture_poses=_fixtures(group),
            seed=int(_text(group.attrs.get("seed", 0))),
            fingerprint=_json_attribute(group, "fingerprint"),
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
            actions = _read_actions(group)
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
                fingerprint=_json_attribute(group, "fingerprint"),
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
    partial_path.unlink(missing_ok=True)  # renaming a link onto another link of the same file does nothing


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
