"""The types that the stages hand to each other. numpy only; frozen; every array says its shape, dtype, unit and frame.

Index convention, everywhere: row ``t`` of an episode is the observation and the simulator state *before* action ``t``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.choices import Component, Subset

AGENTVIEW = "agentview"
WRIST = "robot0_eye_in_hand"
CAMERAS = (AGENTVIEW, WRIST)

ACTION_DIM = 7
GRIPPER_OPEN = -1.0
GRIPPER_CLOSE = 1.0
CONTROL_HZ = 20
STATIC_CODE = 0
"""The flow code of a cell that does not move, in every flow tokenizer."""
POINT_GRID = 256
"""Points and boxes in text are integers on a POINT_GRID x POINT_GRID grid, whatever the image's size."""

_EPISODE_ID = re.compile(r"^(?P<subset>[a-z0-9]+)/(?P<task>\d+)/(?P<demo>\d+)$")


@dataclass(frozen=True, order=True)
class EpisodeId:
    """Names one demonstration: ``object/03/017`` is task 3 of libero_object, ``data/demo_17`` of its file."""

    subset: Subset
    task_id: int
    demo: int

    def __str__(self) -> str:
        return f"{self.subset.value}/{self.task_id:02d}/{self.demo:03d}"

    @classmethod
    def parse(cls, text: str) -> EpisodeId:
        """Inverse of ``str``. Raises ValueError on anything else."""
        found = _EPISODE_ID.match(text)
        if found is None:
            raise ValueError(f"{text!r} is not an episode id; expected e.g. 'object/03/017'")
        return cls(Subset(found["subset"]), int(found["task"]), int(found["demo"]))


@dataclass(frozen=True)
class Episode:
    """One demonstration; images are read only when asked for.

    Actions are OSC pose deltas in [-1, 1] (0.05 m and 0.5 rad per unit, world frame); the last is the gripper
    (-1 open, +1 close). Images are in ImageFrame.GL (bottom-up, as robosuite renders and LIBERO stores them).
    """

    id: EpisodeId
    task_name: str  # the BDDL file's stem
    instruction: str  # lower case, as the file's name says it (libero_utils.instruction)
    actions: np.ndarray  # float32 [T, 7]
    proprio: np.ndarray  # float32 [T, 8]: end-effector position (3, m), axis-angle (3, rad), finger joints (2, m)
    states: np.ndarray | None  # float64 [T, S]: flattened MuJoCo state (time, qpos, qvel), None without a simulator
    fixtures: Mapping[str, tuple[float, ...]]  # body name -> position (3) and quaternion wxyz (4); {} if unknown
    fingerprint: Mapping[str, Any]  # of the environment that rendered it
    success: bool
    read_frames: Callable[[str], np.ndarray] = field(repr=False, compare=False)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.actions)

    def frames(self, camera: str) -> np.ndarray:
        """Images of `camera` (one of CAMERAS): uint8 [T, H, W, 3], ImageFrame.GL. Reads the file each time."""
        return self.read_frames(camera)


class EpisodeSource(Protocol):
    """Where another data set plugs in."""

    def list(self) -> list[EpisodeId]:
        """All episodes, sorted."""
        ...

    def open(self, episode: EpisodeId) -> Episode:
        """One episode; images lazy."""
        ...


@dataclass(frozen=True)
class BoundingBox:
    """Axis-aligned box of a named object on the POINT_GRID of the ROT180 frame, corners inclusive."""

    name: str
    x0: int
    y0: int
    x1: int
    y1: int
    visible: float = field(default=1.0, compare=False)  # share of its silhouette, 0 to 1; not part of the text


@dataclass(frozen=True)
class StepReasoning:
    """The chain of thought of one step, in embodied-CoT's vocabulary. Points: POINT_GRID, ROT180 frame, (x, y)."""

    task: str
    plan: str
    visible_objects: tuple[BoundingBox, ...]
    subtask_reasoning: str
    subtask: str
    move_reasoning: str
    move: str
    gripper: tuple[tuple[int, int], ...]  # five future positions, the last repeated past the end; () if unknown
    absent: frozenset[Component] = frozenset()  # what its author does not say: never written


@dataclass(frozen=True)
class Annotation:
    """Reasoning of a whole episode, one entry per step."""

    episode: EpisodeId
    steps: tuple[StepReasoning | None, ...]  # None: a step without reasoning
    source: Mapping[str, str]  # field -> who wrote it: 'rules', 'sim', 'llm:<model>'


@dataclass(frozen=True)
class FlowTokens:
    """Discrete optical flow of a whole episode from step t to t + k, agentview, ROT180 frame."""

    episode: EpisodeId
    codes: np.ndarray  # uint16 [T, N], values < num_codes
    k_effective: np.ndarray  # uint16 [T]: min(k, T - 1 - t); a step with k_effective < k / 2 has no flow
    k: int  # horizon in control steps
    num_codes: int
    tokenizer_digest: str


@dataclass(frozen=True)
class Sample:
    """One training sample: what one step of one episode offers to any phase."""

    episode: EpisodeId
    step: int
    image: np.ndarray  # uint8 [S, S, 3], ROT180 frame, the policy's input size
    instruction: str
    parts: Mapping[str, Any]  # source name -> value: 'action' float32 [H, 7] normalised; 'reasoning'; 'flow' codes


def digest(value: Any) -> str:
    """Names plain JSON values: sha256 of their canonical JSON, 16 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def demos_digest(actions: Mapping[EpisodeId, np.ndarray]) -> str:
    """Names demonstrations: sha256 over their ids and actions (float32 [T, 7] each)."""
    named = ((e, hashlib.sha256(np.ascontiguousarray(actions[e]).tobytes()).hexdigest()) for e in sorted(actions))
    return hashlib.sha256("".join(f"{episode} {found}\n" for episode, found in named).encode()).hexdigest()


class Interrupted(Exception):
    """The user or the machine asked to stop; what was done is saved and the same command resumes (exit 75)."""


class EnvironmentProblem(Exception):
    """The machine lacks something (GL, disk, data, weights). The message says what and the remedies (exit 78)."""


class StageFailed(Exception):
    """A stage did its work and there is nothing to hand on. The message says what was tried and what to do (exit 1)."""


class SimulationUnstableError(RuntimeError):
    """The physics met numbers that are not finite and started over: the episode is worth nothing."""


@dataclass(frozen=True)
class StageContext:
    """What a running stage may touch besides its configuration."""

    work: Path  # the only folder it writes; may hold its own unfinished work from an earlier attempt
    inputs: Mapping[str, Path]  # input name -> finished, read-only output folder of that stage
    report: Callable[[int, int, str], None] = lambda done, total, note: None  # progress
    stop_requested: Callable[[], bool] = lambda: False
    remarks: dict[str, Any] = field(default_factory=dict[str, Any])  # may differ from run to run: kept, never compared

    def checkpoint(self) -> None:
        """Call at safe points, after saving. Raises Interrupted when a stop was requested."""
        if self.stop_requested():
            raise Interrupted


Stage = Callable[[Any, StageContext], list[str]]
"""A stage: (its configuration slice, context) -> its outputs, as paths relative to ``context.work``.

Everything else found in ``work`` afterwards is dropped. A stage must give the same output for the same
configuration and inputs, whether or not an earlier attempt was killed half-way.
"""
