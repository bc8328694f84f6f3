"""Read LIBERO's HDF5 demonstrations (the layout is in `hdf5_layout`), lazily and with errors that name the culprit.

Official files lack what makes a replay of ours exact; `read_replay` says what stands in for it. Their images and
observations were taken *after* action t (their states before it): only regenerated ones are rows as `contract` says.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from configs.checks import ConfigError
from configs.choices import Subset
from configs.slices import OfficialSlice
from data_pipeline.contract import CAMERAS, EnvironmentProblem, Episode, EpisodeId, StageContext
from data_pipeline.hdf5_layout import OBSERVATION_WIDTHS, TaskInfo, phases_of
from data_pipeline.hdf5_reading import (
    check_name_agrees,
    data_attributes,
    demo_group,
    image_dataset,
    json_attribute,
    list_demos,
    open_hdf5,
    read_actions,
    read_numbers,
    read_text,
    task_files,
)
from data_pipeline.libero_utils import instruction, task_names
from data_pipeline.whole_files import file_sha256


@dataclass(frozen=True)
class ReplayStart:
    """What a replay needs of a demonstration, besides the simulator."""

    actions: np.ndarray  # float64 [T, 7]
    states: np.ndarray  # float64 [T, S], to compare with
    init_state: np.ndarray  # float64 [S]
    settle_steps: int
    resume_gripper: float | None  # the gripper's command so far, where init_state lies in the middle of an episode
    fixture_poses: Mapping[str, tuple[float, ...]]
    seed: int
    fingerprint: Mapping[str, Any]  # {} for official files
    expert_phases: tuple[str, ...] = ()  # [T] where our expert made it
    model_file: str = field(repr=False, default="")


def read_task_info(path: Path, task_name: str) -> TaskInfo:
    """The attributes of the group ``data``, and the instruction that evaluation gives, which is the BDDL stem's.

    The file's own `language_instruction` is the BDDL sentence ("pick the akita black bowl ..."): training on it would
    teach sentences that no evaluation says.
    """
    with open_hdf5(path) as file:
        attributes = data_attributes(file)
    check_name_agrees(path, task_name, attributes)
    where = f"{path}: data"
    return TaskInfo(
        task_name=task_name,
        instruction=instruction(task_name),
        problem_name=str(json_attribute(attributes, "problem_info", where).get("problem_name", "")),
        bddl_file_name=read_text(attributes.get("bddl_file_name", "")),
        bddl_file_content=read_text(attributes.get("bddl_file_content", "")),
        env_args=json_attribute(attributes, "env_args", where),
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
        return {k: tuple(v) for k, v in json_attribute(group.attrs, "fixture_poses", _where(group)).items()}
    try:
        return fixtures_of_model(read_text(group.attrs.get("model_file", "")))
    except ElementTree.ParseError as error:
        raise ConfigError(f"{_where(group)}: attribute model_file is not XML ({error})") from error


def _where(group: h5py.Group) -> str:
    return f"{group.file.filename}: {group.name}"


def read_replay(path: Path, demo: int) -> ReplayStart:
    """How to play a demonstration again.

    Ours: from the stored state before settling. Official ones (no ``settle_steps``) begin in the middle of an episode,
    as their writer left out five steps: from states[0], not settled, fixtures from their model_file.
    """
    with open_hdf5(path) as file:
        group = demo_group(file, demo)
        actions = read_actions(group)
        states = read_numbers(group, "states", steps=len(actions))
        ours = "settle_steps" in group.attrs
        if ours and "init_state" not in group.attrs:
            raise ConfigError(f"{_where(group)}: attribute init_state is missing, and settle_steps is there")
        return ReplayStart(
            actions=actions,
            states=states,
            init_state=np.asarray(group.attrs["init_state"]) if ours else states[0],
            settle_steps=int(read_text(group.attrs["settle_steps"])) if ours else 0,
            resume_gripper=group.attrs.get("resume_gripper") if ours else float(actions[0, 6]),
            fixture_poses=_fixtures(group),
            seed=int(read_text(group.attrs.get("seed", 0))),
            fingerprint=json_attribute(group.attrs, "fingerprint", _where(group)),
            expert_phases=phases_of(json.loads(group.attrs.get("expert_phases", "[]")), len(actions)),
            model_file=read_text(group.attrs.get("model_file", "")),
        )


def read_frames(path: Path, demo: int, camera: str) -> np.ndarray:
    """uint8 [T, H, W, 3], ImageFrame.GL."""
    with open_hdf5(path) as file:
        return image_dataset(demo_group(file, demo), camera)[()]


class Hdf5Source:
    """Episodes of one subset in a folder of LIBERO HDF5 files (an EpisodeSource). Nothing stays open between calls."""

    def __init__(self, folder: Path, subset: Subset) -> None:
        """Raises ConfigError where the folder holds no file of the subset, or a file that is not of it."""
        self.folder, self.subset = folder, subset
        self._files = task_files(folder, subset)
        if not self._files:
            raise ConfigError(f"{folder} holds no *.hdf5 of subset {subset.value}")
        self.tasks = tuple(self._files)
        self._info: dict[int, TaskInfo] = {}

    def path(self, task_id: int) -> Path:
        """The file of one task."""
        return self._files[task_id]

    def info(self, task_id: int) -> TaskInfo:
        """What the task's file says about the task."""
        if task_id not in self._info:
            self._info[task_id] = read_task_info(self.path(task_id), task_names(self.subset)[task_id])
        return self._info[task_id]

    def list(self) -> list[EpisodeId]:
        """All episodes, sorted."""
        return [EpisodeId(self.subset, task, demo) for task in self.tasks for demo in list_demos(self.path(task))]

    def open(self, episode: EpisodeId) -> Episode:
        """One episode; images are read when asked for. Raises ConfigError that names file, demonstration and key."""
        path, info = self.path(episode.task_id), self.info(episode.task_id)
        with open_hdf5(path) as file:
            group = demo_group(file, episode.demo)
            actions = read_actions(group)
            steps = len(actions)
            for camera in CAMERAS:
                image_dataset(group, camera, steps)
            keys = ("ee_pos", "ee_ori", "gripper_states")
            proprio = [read_numbers(group, f"obs/{key}", OBSERVATION_WIDTHS[key], steps) for key in keys]
            return Episode(
                id=episode,
                task_name=info.task_name,
                instruction=info.instruction,
                actions=actions.astype(np.float32),
                proprio=np.concatenate(proprio, axis=1).astype(np.float32),
                states=read_numbers(group, "states", steps=steps) if "states" in group else None,
                fixtures=_fixtures(group),
                fingerprint=json_attribute(group.attrs, "fingerprint", _where(group)),
                success=bool(group.attrs.get("success", True)),  # the official files hold successes only
                read_frames=partial(read_frames, path, episode.demo),
            )

    def faults(self) -> Generator[tuple[EpisodeId, ConfigError]]:
        """The episodes that cannot be opened, and why. Reads and checks all but the pixels: milliseconds each."""
        for episode in self.list():
            try:
                self.open(episode)
            except ConfigError as problem:
                yield episode, problem

    def close(self) -> None:
        """Nothing is held open; here because other sources may hold something."""


def refuse(bad: Sequence[ConfigError], total: int) -> None:
    """Raise ConfigError with the first of the faults, how many there are and how to go on without them."""
    if bad:
        raise ConfigError(
            f"{bad[0]}\n{len(bad)} of {total} demonstrations cannot be used; --skip-bad (data.skip_bad=true) leaves "
            "them out where demonstrations are regenerated, and lists them"
        ) from bad[0]


# ------------------------------------------------------------------ the stage `official`


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
    """Stage `official`: LIBERO's own files, checked against their digests, under their official names.

    Raises ConfigError for the first demonstration that cannot be used, unless they may be skipped.
    """
    source = Hdf5Source(Path(config.paths[0]).parent, config.subset)
    if not config.skip_bad:
        bad = [problem for episode, problem in source.faults() if episode.task_id in config.tasks]
        refuse(bad, sum(episode.task_id in config.tasks for episode in source.list()))
    for done, ((name, digest), path) in enumerate(zip(config.files, config.paths, strict=True)):
        context.checkpoint()
        context.report(done, len(config.files), name)
        source, target = Path(path), context.work / name
        if not source.is_file():
            raise EnvironmentProblem(f"{source} is missing; start the run again")
        found = file_sha256(source)
        if found != digest:
            raise EnvironmentProblem(f"{source} has changed: sha256 {found}, expected {digest}; start the run again")
        _link_or_copy(source, target)
    context.report(len(config.files), len(config.files), "")
    return [name for name, _ in config.files]
