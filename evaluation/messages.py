"""What the driver and its simulator processes say to each other: pickled over a socket; frames in shared memory.

The driver sends (slot, Describe | Begin | Chunk) and the worker answers in the order it was asked. Nothing here may
import torch, peft or triton: the simulator processes read it, and software GL beside these crashes.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs.choices import Subset
from configs.data import EnvConfig
from evaluation.episodes import EpisodeRequest

PERTURBATION = "perturbation"
"""Entry of a fingerprint: nothing that was perturbed merges with what was not, or was otherwise."""


@dataclass(frozen=True)
class Setup:
    """Driver, first of all: which environments, and how many at once."""

    env: EnvConfig
    slots: int


@dataclass(frozen=True)
class Describe:
    """Driver: build the environment of a task and answer with its `Description`."""

    subset: Subset
    task_id: int


@dataclass(frozen=True)
class Begin:
    """Driver: reset, settle and show."""

    request: EpisodeRequest


@dataclass(frozen=True)
class Chunk:
    """Driver: execute these actions, float32 [E, 7] in [-1, 1], gripper -1 open / +1 close."""

    actions: np.ndarray


@dataclass(frozen=True)
class Description:
    """Worker: what the environment of a task is, and in a view what it is in this episode."""

    task_name: str
    instruction: str
    fingerprint: dict[str, Any]  # of a perturbed episode it has the entry PERTURBATION
    perturbed: dict[str, Any] = field(default_factory=dict[str, Any])  # what the perturbation drew


@dataclass(frozen=True)
class View:
    """Worker: the state after `steps` environment steps, and what it shows to the policy."""

    description: Description
    steps: int
    success: bool
    over: bool  # the episode has ended: nothing is shown any more
    drawn: bool  # the picture lies in the slot's shared memory
    spent: Mapping[str, float] = field(
        default_factory=dict[str, float]
    )  # on this message: reset_s, physics_s, render_s, policy_s
    milestones: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of an episode that is over
    image: np.ndarray | None = None  # uint8 [R, R, 3], agentview, ImageFrame.GL; the pool puts it here if `drawn`
    advice: np.ndarray | str | None = None  # the expert's next action, float32 [7], or why it gives up


@dataclass(frozen=True)
class Failed:
    """Worker: the simulator gave this episode up; the process and its other episodes are well."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """Worker: imports are done."""


@dataclass(frozen=True)
class Unusable:
    """Worker: this machine cannot run the simulator; the message says what to do."""

    message: str


def frames_size(setup: Setup) -> int:
    """Bytes of shared memory for one picture per slot."""
    return setup.slots * setup.env.resolution**2 * 3


def map_frames(descriptor: int, setup: Setup) -> np.ndarray:
    """One picture per slot, uint8 [slots, R, R, 3], in memory shared through an open file; freed with the array."""
    shape = (setup.slots, setup.env.resolution, setup.env.resolution, 3)
    return np.frombuffer(mmap.mmap(descriptor, frames_size(setup)), np.uint8).reshape(shape)
