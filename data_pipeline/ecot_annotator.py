"""Stage `annotate`: the chain of thought of every step, by rules, from what the simulator knows.

`annotate` is a pure function of a SceneTrack: the same episode gives the same bytes. Every statement is measured
(offsets, contacts, predicates) or copied from the BDDL goal; nothing is guessed from pictures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from configs.slices import AnnotateSlice
from data_pipeline.contract import Annotation, BoundingBox, EpisodeId, StageContext, StepReasoning
from data_pipeline.gripper_positions import future_track, to_grid
from data_pipeline.primitive_movements import movement_primitives
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.scene import Goal, SceneTrack
from data_pipeline.segments import Segment, segment
from data_pipeline.sidecar import merge_annotations, save_annotations
from data_pipeline.sim.pool import run_jobs
from data_pipeline.templates import (
    ARRIVED,
    CLOSING,
    LEAVING,
    OFFSETS,
    PLAN_STEPS,
    REASONS,
    REGRASPING,
    RELEASING,
    RISEN,
    SUBTASKS,
    TRAVEL,
    choose,
    handle_label,
    label,
    part_label,
    region_phrase,
)

MIN_VISIBLE = 0.1  # of an object's silhouette, for it to be listed
MIN_OFFSET_M = 0.015  # a shorter one along an axis is not worth a word
MIN_OFFSET_SHARE = 0.25  # nor is one below this share of the largest
SOURCE = {
    "task": "rules",
    "plan": "rules",
    "visible_objects": "sim",
    "subtask_reasoning": "rules",
    "subtask": "rules",
    "move_reasoning": "rules",
    "move": "rules",
    "gripper": "sim",
}
_SIDES = (("ahead", "behind"), ("left", "right"), ("above", "below"))


# ------------------------------------------------------------------ the stage


def run_annotate(config: AnnotateSlice, context: StageContext) -> list[str]:
    """Stage `annotate`: regenerate -> annotations.json. Finished episodes of an interrupted attempt are kept.

    Raises EnvironmentProblem where an episode has no simulator states.
    """
    folder = context.inputs["regenerate"]
    parts = context.work / "parts"
    parts.mkdir(exist_ok=True)
    with contextlib.closing(Hdf5Source(folder, config.subset)) as source:
        jobs = [_Job(e, parts / (str(e).replace("/", "_") + ".json")) for e in source.list()]
    run_jobs(jobs, partial(_Worker, config, folder), config.workers, context, lambda job: str(job.episode))
    merge_annotations(context.work / "annotations.json", [job.part for job in jobs])
    return ["annotations.json"]


@dataclass(frozen=True)
class _Job:
    """One episode."""

    episode: EpisodeId
    part: Path  # its annotations, alone

    @property
    def done(self) -> bool:
        return self.part.exists()


class _Worker:
    """Annotates episodes; keeps the environment of the last task."""

    def __init__(self, config: AnnotateSlice, folder: Path) -> None:
        from data_pipeline.sim.features import Replayer  # the simulator only where it is needed

        self._source = Hdf5Source(folder, config.subset)
        self._replayer = Replayer(config.env)
        self._horizon = config.annotator.move_horizon

    def run(self, job: _Job) -> None:
        track = self._replayer.track(self._source.open(job.episode))
        _save(job.part, track, annotate(track, self._horizon))

    def close(self) -> None:
        self._replayer.close()
        self._source.close()


def _save(path: Path, track: SceneTrack, annotation: Annotation) -> None:
    episode = annotation.episode
    save_annotations(path, {episode: annotation}, files={episode: track.file}, state_3d={episode: track.grip_position})


# ------------------------------------------------------------------ one episode


def annotate(track: SceneTrack, move_horizon: int) -> Annotation:
    """The reasoning of every step. move_horizon: steps over which a movement primitive is measured."""
    moves = movement_primitives(
        track.grip_position, track.grip_rotation, track.gripper_command, track.finger_opening, move_horizon
    )
    segments = segment(track)
    words = _Words.of(track)
    task, plan = words.task(segments), words.plan(segments)
    steps = [
        StepReasoning(
            task=task,
            plan=plan,
            visible_objects=visible_objects(track, words.labels, t),
            subtask_reasoning=words.say(REASONS[part.kind], part),
            subtask=words.say([SUBTASKS[part.kind]], part),
            move_reasoning=words.move_reasoning(track, part, t, moves[t]),
            move=moves[t],
            gripper=future_track(track.grip_point, t),
        )
        for part in segments
        for t in range(part.start, part.stop)
    ]
    return Annotation(track.episode, tuple(steps), SOURCE)


def visible_objects(track: SceneTrack, labels: tuple[str, ...], step: int) -> tuple[BoundingBox, ...]:
    """Boxes of what can be seen: the grid cells that its visible pixels touch."""
    boxes = []
    for name, box, visible in zip(labels, track.box[step], track.visible[step], strict=True):
        if visible >= MIN_VISIBLE and not np.isnan(box).any():
            first, last = to_grid(box[:2]), to_grid(np.ceil(box[2:]) - 1)
            boxes.append(BoundingBox(name, int(first[0]), int(first[1]), int(last[0]), int(last[1])))
    return tuple(boxes)


def unique_labels(track: SceneTrack) -> tuple[str, ...]:
    """What people call the N things; two of a kind are told apart as the left and the right one at the start."""
    plain = [label(name) for name in track.names]
    named = []
    for index, text in enumerate(plain):
        twins = [i for i, other in enumerate(plain) if other == text]
        rank = sorted(twins, key=lambda i: -track.position[0, i, 1]).index(index)  # +y is left
        side = {2: ("left", "right"), 3: ("left", "middle", "right")}.get(len(twins))
        named.append(text if len(twins) == 1 else f"{side[rank]} {text}" if side else f"{text} {rank + 1}")
    return tuple(named)


def offset_phrase(vector: np.ndarray) -> str:
    """Words for an offset, float [3], m: "6 cm left and 11 cm below"; empty if it is short along every axis."""
    terms = [
        f"{round(abs(v) * 100)} cm {sides[0 if v > 0 else 1]}"
        for v, sides in zip(vector, _SIDES, strict=True)
        if abs(v) >= max(MIN_OFFSET_M, MIN_OFFSET_SHARE * float(np.abs(vector).max()))
    ]
    return " and ".join([", ".join(terms[:-1]), terms[-1]] if len(terms) > 1 else terms)


@dataclass(frozen=True)
class _Words:
    """The names that an episode's sentences are filled with."""

    episode: EpisodeId
    labels: tuple[str, ...]
    goals: tuple[Goal, ...]
    names: tuple[Mapping[str, str], ...]  # per goal: thing, handle, where, goal_owner

    @classmethod
    def of(cls, track: SceneTrack) -> _Words:
        labels = unique_labels(track)
        return cls(track.episode, labels, track.goals, tuple(_names(track, labels, goal) for goal in track.goals))

    def task(self, segments: tuple[Segment, ...]) -> str:
        """The goal as an instruction, in the order in which the episode reaches it."""
        return " and ".join(self._goal_phrase(goal) for goal in _order(segments) if goal < len(self.goals))

    def plan(self, segments: tuple[Segment, ...]) -> str:
        """The subtasks of the episode; of several goals only the act that achieves each."""
        order = _order(segments)
        if len(order) > 1:
            return ", then ".join(self._goal_phrase(goal) for goal in order)
        first = SUBTASKS[segments[0].kind].format(**self.names[segments[0].goal])
        return ", ".join([first, *(PLAN_STEPS[part.kind].format(**self.names[part.goal]) for part in segments[1:])])

    def say(self, variants: Sequence[str], part: Segment) -> str:
        """One of the variants, the same throughout a segment."""
        chosen = choose(variants, self.episode, part.kind, part.goal)
        return chosen.format(offset="{offset}", **self.names[part.goal])

    def move_reasoning(self, track: SceneTrack, part: Segment, step: int, move: str) -> str:
        """Why the hand moves now: what the gripper is doing, or how far what it wants is."""
        if "open gripper" in move:
            return self.say(RELEASING if part.kind in ("place", "retract") else REGRASPING, part)
        match part.kind:
            case "grasp" | "grasp handle":
                return self.say(CLOSING, part)
            case "lift":
                return self._risen(track, part, step)
            case "retract":
                return self.say(LEAVING, part)
            case "open" | "close" | "turn on":
                return self._travel(track, part, step)
            case _:
                return self._offset(track, part, step)

    def _offset(self, track: SceneTrack, part: Segment, step: int) -> str:
        goal = self.goals[part.goal]
        kind = {"place": "move", "push": "move"}.get(part.kind, part.kind)
        thing = track.position[step, track.index(goal.subject)]
        target = track.target[step, part.goal]
        vector = {"reach": thing - track.grip_position[step], "move": target - thing}.get(
            kind, target - track.grip_position[step]
        )
        offset = offset_phrase(vector)
        return self.say(OFFSETS[kind], part).replace("{offset}", offset) if offset else self.say([ARRIVED[kind]], part)

    def _risen(self, track: SceneTrack, part: Segment, step: int) -> str:
        height = track.position[:, track.index(self.goals[part.goal].subject), 2]
        return RISEN.format(cm=max(round(100 * float(height[step] - height[part.start])), 0))

    def _travel(self, track: SceneTrack, part: Segment, step: int) -> str:
        joint = track.joint[:, part.goal]
        travel = abs(float(joint[step] - joint[0]))
        kind = "drawer" if "drawer" in self.names[part.goal]["thing"] else "other"
        return TRAVEL[kind].format(cm=round(100 * travel), degrees=round(np.rad2deg(travel)))

    def _goal_phrase(self, goal: int) -> str:
        predicate, names = self.goals[goal].predicate, self.names[goal]
        verbs = {"open": "open the {thing}", "close": "close the {thing}", "turnon": "turn on the {thing}"}
        return verbs.get(predicate, "put the {thing} {where}").format(**names)


def _names(track: SceneTrack, labels: tuple[str, ...], goal: Goal) -> dict[str, str]:
    subject = track.index(goal.subject)
    if not goal.places:
        owner = track.names[subject], labels[subject]
        part = part_label(goal.subject, *owner)
        return {"thing": part, "handle": handle_label(goal.subject, *owner), "where": "", "goal_owner": part}
    target = _landmark(track, goal.target)
    where = region_phrase(goal.target, track.names[target], labels[target], goal.predicate)
    return {"thing": labels[subject], "handle": labels[subject], "where": where, "goal_owner": labels[target]}


def _landmark(track: SceneTrack, target: str) -> int:
    """Column of what a region belongs to; for a region of the table, of what it is named after."""
    try:
        return track.index(target)
    except KeyError:
        words = set(target.split("_"))
        return next(i for i, name in enumerate(track.names) if words & set(name.split("_")[:-1]))


def _order(segments: tuple[Segment, ...]) -> list[int]:
    return list(dict.fromkeys(part.goal for part in segments))
