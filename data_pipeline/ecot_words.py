"""What the rules annotator says of a segment and of a step: names, reasons and offsets as words. Pure.

Every statement is measured (offsets, contacts, predicates, some of them of later steps: where the hand will grip, where
it will let go) or copied from the BDDL goal; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.contract import EpisodeId
from data_pipeline.scene import Goal, SceneTrack
from data_pipeline.segments import Segment
from data_pipeline.templates import (
    ARRIVED,
    ASIDE,
    CLOSING,
    LEAVING,
    OFFSETS,
    OPENING,
    PLAN_STEPS,
    REASONS,
    REGRASPING,
    RELEASING,
    RISEN,
    RISING,
    SLID,
    SLIDING,
    SUBTASKS,
    TURNED,
    TURNING,
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
    names: tuple[Mapping[str, str], ...]  # per goal: thing, handle, turned, where, goal_owner
    instruction: str

    @classmethod
    def of(cls, track: SceneTrack) -> Words:
        """The names that a track's own goals give."""
        labels = unique_labels(track)
        names = tuple(_names(track, labels, goal) for goal in track.goals)
        return cls(track.episode, labels, track.goals, names, track.instruction)

    def task(self, segments: tuple[Segment, ...]) -> str:
        """The goals as an instruction, in the order in which the episode reaches them.

        The instruction itself where it says which of several alike is meant: "the black bowl next to the plate".
        """
        if re.match(rf"pick up the {re.escape(self.names[0]['thing'])} (?!and )", self.instruction):
            return self.instruction
        return " and ".join(self._goal_phrase(goal) for goal in _order(segments) if goal < len(self.goals))

    def plan(self, segments: tuple[Segment, ...]) -> str:
        """The subtasks of the episode; of several goals only the act that achieves each."""
        order = _order(segments)
        if len(order) > 1:
            return ", then ".join(self._goal_phrase(goal) for goal in order)
        first, *rest = dict.fromkeys(part.kind for part in segments)
        names = self.names[segments[0].goal]
        return ", ".join([SUBTASKS[first].format(**names), *(PLAN_STEPS[kind].format(**names) for kind in rest)])

    def say(self, variants: Sequence[str], part: Segment) -> str:
        """One of the variants, the same throughout a segment."""
        chosen = choose(variants, self.episode, part.kind, part.goal)
        return chosen.format(offset="{offset}", **self.names[part.goal])

    def subtask(self, part: Segment) -> str:
        """What is done."""
        return self.say([SUBTASKS[part.kind]], part)

    def subtask_reasoning(self, part: Segment) -> str:
        """Why this is done now."""
        handled = part.kind == "retract" and not self.goals[part.goal].places
        return self.say(REASONS["retract handle" if handled else part.kind], part)

    def move_reasoning(self, track: SceneTrack, part: Segment, step: int, move: str, end: int | None) -> str:
        """Why the hand moves now: what the gripper is doing, or how far what it wants is. end: see `arrivals`."""
        if "open gripper" in move:
            return self.say(_opening_words(track, part, step), part)
        match part.kind:
            case "grasp" | "grasp handle":
                return self.say(CLOSING, part)
            case "lift":
                return self._risen(track, part, step)
            case "retract":
                return self.say(LEAVING, part)
            case "set aside":
                return self.say(ASIDE, part)
            case "open" | "close" | "turn on":
                return self._travel(track, part, step)
            case _:
                return self._offset(track, part, step, end)

    def _offset(self, track: SceneTrack, part: Segment, step: int, end: int | None) -> str:
        kind = {"place": "move", "push": "move"}.get(part.kind, part.kind)
        path = track.position[:, track.index(self.goals[part.goal].subject)]
        target = track.target[:, part.goal]
        wanted, moved = {"reach": (path, track.grip_position), "move": (target, path)}.get(
            kind, (target, track.grip_position)
        )
        missing = wanted - moved
        offset = offset_phrase(missing[step] - (missing[end] if end is not None else 0))
        return self.say(OFFSETS[kind], part).replace("{offset}", offset) if offset else self.say([ARRIVED[kind]], part)

    def _risen(self, track: SceneTrack, part: Segment, step: int) -> str:
        height = track.position[:, track.index(self.goals[part.goal].subject), 2]
        cm = round(100 * float(height[step] - height[part.start]))
        return RISEN.format(cm=cm) if cm > 0 else RISING

    def _travel(self, track: SceneTrack, part: Segment, step: int) -> str:
        joint = track.joint[:, part.goal]
        travel, names = abs(float(joint[step] - joint[0])), self.names[part.goal]
        cm, degrees = round(100 * travel), round(np.rad2deg(travel))
        if "drawer" in names["thing"]:
            return SLID.format(cm=cm) if cm > 0 else SLIDING
        return (TURNED if degrees > 1 else TURNING).format(degrees=degrees, **names)

    def _goal_phrase(self, goal: int) -> str:
        predicate, names = self.goals[goal].predicate, self.names[goal]
        verbs = {"open": "open the {thing}", "close": "close the {thing}", "turnon": "turn on the {thing}"}
        return verbs.get(predicate, "put the {thing} {where}").format(**names)


def _names(track: SceneTrack, labels: tuple[str, ...], goal: Goal) -> dict[str, str]:
    subject = track.index(goal.subject)
    if not goal.places:
        owner = track.names[subject], labels[subject]
        part = part_label(goal.subject, *owner)
        handle = handle_label(goal.subject, *owner)
        return {"thing": part, "handle": handle, "turned": handle.partition(" ")[0], "where": "", "goal_owner": part}
    target = _landmark(track, goal.target)
    where = region_phrase(goal.target, track.names[target], labels[target], goal.predicate)
    return {"thing": labels[subject], "handle": labels[subject], "where": where, "goal_owner": labels[target]}


def _opening_words(track: SceneTrack, part: Segment, step: int) -> Sequence[str]:
    """What opening the fingers is for."""
    if not part.kind.startswith("reach"):
        return RELEASING
    closed = track.gripper_command[part.start : step + 1] > 0
    return REGRASPING if (closed[1:] & ~closed[:-1]).any() else OPENING


def arrivals(segments: Sequence[Segment], steps: int) -> list[int | None]:
    """Per segment, the step at which what the hand wants is reached, from which its offsets are counted.

    A bowl is gripped by its rim and let go above a basket: what is missing is what is missing to there, not to middles.
    None where the hand never gets there; then middles count.
    """
    found: list[int | None] = []
    for part, following in zip(segments, [*segments[1:], None], strict=True):
        if part.kind.startswith("reach"):
            found.append(part.stop if part.stop < steps else None)
        else:
            goes_on = part.kind == "move" and following is not None and following.kind == "place"
            found.append((following if goes_on and following else part).stop - 1)
    return found


def _landmark(track: SceneTrack, target: str) -> int:
    """Column of what a region belongs to; for a region of the table, of what it is named after."""
    try:
        return track.index(target)
    except KeyError:
        words = set(target.split("_"))
        return next(i for i, name in enumerate(track.names) if words & set(name.split("_")[:-1]))


def _order(segments: tuple[Segment, ...]) -> list[int]:
    """Goals in the order in which the episode is done with them: a thing set aside is not."""
    last = {part.goal: number for number, part in enumerate(segments)}
    return sorted(last, key=last.__getitem__)
