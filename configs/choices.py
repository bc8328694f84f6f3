"""The words a setting may be: enums that the configuration, the stages and the records share."""

from __future__ import annotations

from enum import StrEnum


class Subset(StrEnum):
    """LIBERO's suites; `long` is the suite libero_10, `90` is libero_90, which is for evaluation alone."""

    SPATIAL = "spatial"
    OBJECT = "object"
    GOAL = "goal"
    LONG = "long"
    NINETY = "90"


STUDY = (Subset.SPATIAL, Subset.OBJECT, Subset.GOAL, Subset.LONG)
"""The suites of the study: they have demonstrations, adapters and a column in every table."""


class Role(StrEnum):
    """What a stretch of the sequence is, for loss weights and logs."""

    PROMPT = "prompt"  # conditioning, never a target
    TEXT = "text"
    FLOW = "flow"
    ACTION = "action"


class Look(StrEnum):
    """How the simulator draws. `official`: as published. `fast`: no reflection, no MSAA. `light`: fast, and the
    robot drawn by its collision meshes."""

    OFFICIAL = "official"
    FAST = "fast"
    LIGHT = "light"


class RaftModel(StrEnum):
    """torchvision's networks for optical flow; the names are its own."""

    LARGE = "raft_large"
    SMALL = "raft_small"


class Stepping(StrEnum):
    """`exact`: robosuite's own stepping. `fast`: one dynamics evaluation per substep, not bit-exact in contact."""

    EXACT = "exact"
    FAST = "fast"


class Mode(StrEnum):
    """Decoding at test time: act at once, or reason first."""

    NO_THINK = "no_think"
    THINK = "think"


class Component(StrEnum):
    """What a chain of thought consists of, in embodied-CoT's order; each has a tag of its name."""

    TASK = "task"
    PLAN = "plan"
    VISIBLE_OBJECTS = "visible_objects"
    SUBTASK_REASONING = "subtask_reasoning"
    SUBTASK = "subtask"
    MOVE_REASONING = "move_reasoning"
    MOVE = "move"
    GRIPPER_POSITION = "gripper_position"


class DropoutVariant(StrEnum):
    """What reasoning dropout leaves out. `whole`: all of it, or nothing. `component`: each tag by itself, flow too, as
    embodied-CoT does. `stage`: all of it, or the first `scheduled_stage` components."""

    WHOLE = "whole"
    COMPONENT = "component"
    STAGE = "stage"


class Corruption(StrEnum):
    """What is made wrong about a segment on purpose, in training only: the control of an ablation.

    `shuffled`: it is that of a step of another demonstration of the subset. `noisy_boxes`: its boxes are displaced.
    """

    NONE = "none"
    SHUFFLED = "shuffled"
    NOISY_BOXES = "noisy_boxes"


class Tune(StrEnum):
    """What training changes. `lora`: an adapter on the language model. `full`: all of the language model's weights."""

    LORA = "lora"
    FULL = "full"


class Weights(StrEnum):
    """What a checkpoint holds: an adapter, a model that was trained in full, or one with its adapter merged in."""

    ADAPTER = "adapter"
    FULL = "full"
    MERGED = "merged"


class Control(StrEnum):
    """Policies that are not trained: what a number stands beside."""

    REPLAY = "replay"  # the mean demonstration, blind
    EXPERT = "expert"  # the scripted expert, which reads the simulator's state
    ZERO = "zero"  # does nothing, gripper open
    RANDOM = "random"  # uniform actions


class Normalization(StrEnum):
    """How pose deltas are scaled; the names are OpenVLA's and Octo's. See `data_pipeline.action_stats`."""

    NORMAL = "normal"
    BOUNDS = "bounds"
    BOUNDS_Q99 = "bounds_q99"
