"""What a person looks at before training, as one plain value: demonstrations + split + statistics -> Inspection.

Reads every action and position, and of the images a handful per demonstration (`frame_scan` finds the frames that stand
out). `inspection_checks` judges the value; `inspection_page` and `contact_sheet` draw it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from configs.choices import Subset
from data_pipeline.action_stats import GRIPPER, ActionStatistics
from data_pipeline.contract import CAMERAS, CONTROL_HZ, Episode, EpisodeId, demos_digest
from data_pipeline.data_splitter import Split
from data_pipeline.demo_outcomes import hand_spread_m
from data_pipeline.frame_scan import FrameScan, read_steps, scan_frames
from data_pipeline.metainfo import Metainfo, Verdict
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.replay import noop_mask

SHEET_COLUMNS = 6
"""Frames shown of a task's typical demonstration: at 0, 20, ..., 100 %."""


@dataclass(frozen=True)
class Known:
    """What is known about demonstrations besides their files."""

    origin: str  # in words: who made them, what was done to them
    split: Split | None = None
    statistics: ActionStatistics | None = None
    metainfo: Metainfo = field(default_factory=dict[str, dict[str, Verdict]])  # of the regeneration
    attempts: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the expert's demos.json
    remarks: tuple[str, ...] = ()  # where split and statistics come from, and why one is missing


@dataclass(frozen=True)
class Pixels:
    """One camera in one demonstration."""

    scan: FrameScan
    brightness: float  # mean of first, middle and last frame, 0 to 255


@dataclass(frozen=True)
class DemoFacts:
    """One demonstration, without its images."""

    id: EpisodeId
    split: str  # train | test | "" where no split names it
    success: bool
    actions: np.ndarray  # float32 [T, 7], as Episode.actions
    position: np.ndarray  # float32 [T, 3], end effector, m, world frame
    start_distance_m: float | None  # to the nearest evaluation start, where the expert measured it
    pixels: Mapping[str, Pixels]  # camera -> what its images are like

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.actions)

    @cached_property
    def noops(self) -> int:
        """Steps that the regeneration's filter would leave out."""
        return int(noop_mask(self.actions).sum())

    @cached_property
    def digest(self) -> str:
        """sha256 of the actions."""
        return hashlib.sha256(np.ascontiguousarray(self.actions).tobytes()).hexdigest()

    @property
    def closed(self) -> np.ndarray:
        """Where the gripper is told to close: bool [T]."""
        return self.actions[:, GRIPPER] > 0


@dataclass(frozen=True)
class Still:
    """The images of one step."""

    step: int
    images: Mapping[str, np.ndarray]  # camera -> uint8 [H, W, 3], ImageFrame.GL


@dataclass(frozen=True)
class TaskFacts:
    """One task."""

    task_id: int
    name: str  # the BDDL file's stem
    instruction: str  # what training and evaluation say
    demos: tuple[DemoFacts, ...]
    noops_removed: int | None  # by the regeneration; None where it left no word
    dropped: tuple[tuple[str, str], ...]  # (demonstration, why), by the regeneration
    failed_attempts: int | None  # of the expert
    typical: EpisodeId  # of median length
    stills: tuple[Still, ...]  # of the typical demonstration

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each demonstration: int [N]."""
        return np.array([demo.num_steps for demo in self.demos])

    @property
    def actions(self) -> np.ndarray:
        """All actions: float32 [sum T, 7]."""
        return np.concatenate([demo.actions for demo in self.demos])

    @property
    def spread_m(self) -> float:
        """How far the demonstrations are from being one trajectory, m (`hand_spread_m`)."""
        return hand_spread_m([demo.position for demo in self.demos])


@dataclass(frozen=True)
class Inspection:
    """Everything the page and the sheet show."""

    subset: Subset
    tasks: tuple[TaskFacts, ...]
    known: Known
    fingerprints: tuple[Mapping[str, Any], ...]  # of the environments that drew the images, each once; () if unknown

    @property
    def demos(self) -> tuple[DemoFacts, ...]:
        """Of all tasks."""
        return tuple(demo for task in self.tasks for demo in task.demos)

    @property
    def num_steps(self) -> int:
        """Over all demonstrations."""
        return sum(demo.num_steps for demo in self.demos)

    @cached_property
    def actions(self) -> np.ndarray:
        """All actions: float32 [sum T, 7]."""
        return np.concatenate([task.actions for task in self.tasks])

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Image sizes met, each once: "128 x 128"."""
        sizes = sorted({pixels.scan.size for demo in self.demos for pixels in demo.pixels.values()})
        return tuple(f"{height} x {width}" for height, width in sizes)

    @cached_property
    def digest(self) -> str:
        """Names the content: sha256 over ids and actions."""
        return demos_digest({demo.id: demo.actions for demo in self.demos})


def seconds(steps: float) -> float:
    """Duration of control steps."""
    return steps / CONTROL_HZ


# ------------------------------------------------------------------ pure


def demo_facts(episode: Episode, pixels: Mapping[str, Pixels], known: Known) -> DemoFacts:
    """What is to be known about one episode."""
    train, test = (known.split.train, known.split.test) if known.split else ((), ())
    attempt = _attempts(known, episode.task_name).get("demos", {}).get(f"demo_{episode.id.demo}", {})
    return DemoFacts(
        id=episode.id,
        split="train" if episode.id in train else "test" if episode.id in test else "",
        success=episode.success,
        actions=episode.actions,
        position=episode.proprio[:, :3],
        start_distance_m=attempt.get("distance_to_official_m"),
        pixels=pixels,
    )


def task_facts(task_id: int, name: str, instruction: str, demos: Sequence[DemoFacts], known: Known) -> TaskFacts:
    """One task's demonstrations together; its typical one without pictures yet."""
    verdicts = known.metainfo.get(name, {})
    failed = [len(made["failed"]) for made in _attempts(known, name).get("demos", {}).values()]
    return TaskFacts(
        task_id=task_id,
        name=name,
        instruction=instruction,
        demos=tuple(demos),
        noops_removed=sum(v.noops_removed for v in verdicts.values()) if verdicts else None,
        dropped=tuple((demo, v.dropped) for demo, v in verdicts.items() if v.dropped),
        failed_attempts=sum(failed) if failed else None,
        typical=sorted(demos, key=lambda demo: (demo.num_steps, demo.id))[len(demos) // 2].id,
        stills=(),
    )


def _attempts(known: Known, task_name: str) -> Mapping[str, Any]:
    return known.attempts.get("tasks", {}).get(task_name, {})


def sheet_steps(num_steps: int) -> list[int]:
    """Steps at 0, 20, ..., 100 % of an episode, rounded down."""
    return [column * (num_steps - 1) // (SHEET_COLUMNS - 1) for column in range(SHEET_COLUMNS)]


# ------------------------------------------------------------------ reading


def inspect_folder(source: Hdf5Source, known: Known) -> Inspection:
    """Read a folder of demonstrations. Raises ConfigError or EnvironmentProblem that name what is wrong with a file."""
    fingerprints: dict[str, Mapping[str, Any]] = {}
    demos: dict[int, list[DemoFacts]] = {task: [] for task in source.tasks}
    for identity in source.list():
        episode = source.open(identity)
        if episode.fingerprint:
            fingerprints.setdefault(repr(sorted(episode.fingerprint.items())), episode.fingerprint)
        demos[identity.task_id].append(demo_facts(episode, _pixels(source, episode), known))
    infos = {task: source.info(task) for task in source.tasks}
    tasks = (task_facts(t, info.task_name, info.instruction, demos[t], known) for t, info in infos.items())
    return Inspection(
        subset=source.subset,
        tasks=tuple(_with_stills(source, task) for task in tasks),
        known=known,
        fingerprints=tuple(fingerprints.values()),
    )


def _pixels(source: Hdf5Source, episode: Episode) -> dict[str, Pixels]:
    path, demo, last = source.path(episode.id.task_id), episode.id.demo, episode.num_steps - 1
    return {
        camera: Pixels(
            scan_frames(path, demo, camera), float(read_steps(path, demo, camera, (0, last // 2, last)).mean())
        )
        for camera in CAMERAS
    }


def _with_stills(source: Hdf5Source, task: TaskFacts) -> TaskFacts:
    path, demo = source.path(task.task_id), task.typical.demo
    steps = sheet_steps(next(d.num_steps for d in task.demos if d.id == task.typical))
    views = {camera: read_steps(path, demo, camera, steps) for camera in CAMERAS}
    stills = (Still(step, {camera: images[i] for camera, images in views.items()}) for i, step in enumerate(steps))
    return replace(task, stills=tuple(stills))
