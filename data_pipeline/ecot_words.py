"""What the rules annotator says of a segment and of a step: names, reasons and offsets as words. Pure.

Every statement is measured (offsets, contacts, predicates) or copied from the BDDL goal; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.contract import EpisodeId
from data_pipeline.scene import Goal, SceneTrack
from data_pipeline.segments import Segment
from data_pipeline.templates import (
    ARRIVED,
    CLOSING,
    LEAVING,
    OFFSETS,
    PLAN_STEPS,
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

MIN_OFFSET_M = 0.015  # a shorter one along an axis is not worth a word
MIN_OFFSET_SHARE = 0.25  # nor is one below this share of the largest
_SIDES = (("ahead", "behind"), ("left", "right"), ("above", "below"))


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
class Words:
    """The names that an episode's sentences are filled with."""

    episode: EpisodeId
    labels: tuple[str, ...]
    goals: tuple[Goal, ...]
    names: tuple[Mapping[str, str], ...]  # per goal: thing, handle, where, goal_owner

    @classmethod
    def of(cls, track: SceneTrack) -> Words:
        """The names that a track's own goals give."""
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
