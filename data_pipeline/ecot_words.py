"""What the rules annotator says of a segment and of a step: names, reasons and offsets as words. Pure.

Every statement is measured (offsets, contacts, predicates, some of them of later steps: where the hand will grip, where
it will let go) or copied from the BDDL goal; nothing is guessed.
"""

from __future__ import annotations

import itertools
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
    RISING_ON,
    SLIDING,
    SUBTASKS,
    TRAVELLED,
    TURNING,
    choose,
    handle_label,
    label,
    part_label,
    region_phrase,
)

MIN_OFFSET_M = 0.015  # a shorter one along an axis is not worth a word
MIN_OFFSET_SHARE = 0.25  # nor is one below this share of the largest
_LATER = {name: f"{{{name}}}" for name in ("offset", "cm", "degrees")}  # measured per step
_SIDES = (("ahead", "behind"), ("left", "right"), ("above", "below"))


def unique_labels(track: SceneTrack) -> tuple[str, ...]:
    """What people call the N things; two of a kind are the left and the right one, as the instruction means it.

    LIBERO's instructions mean left and right in the upright picture, which faces the robot. Where they say neither, it
    is as the hand's moves have it, at the start.
    """
    plain = [label(name) for name in track.names]
    named = []
    for index, text in enumerate(plain):
        twins = sorted((i for i, other in enumerate(plain) if other == text), key=lambda i: -track.position[0, i, 1])
        sides = {2: ("left", "right"), 3: ("left", "middle", "right")}.get(len(twins), ())
        if sides and any(_said_side(track, i, text) == sides[-1 - n] != sides[n] for n, i in enumerate(twins)):
            twins.reverse()
        rank = twins.index(index)  # +y is left
        named.append(text if len(twins) == 1 else f"{sides[rank]} {text}" if sides else f"{text} {rank + 1}")
    return tuple(named)


def _said_side(track: SceneTrack, index: int, text: str) -> str:
    """What side the instruction has the thing in column `index` on, "" where it says none. text: its label."""
    for goal in track.goals:
        if goal.places and index in (track.index(goal.subject), _landmark(track, goal.target)):
            before = f"{label(goal.subject)} (?:on|in) the " if index != track.index(goal.subject) else ""
            if found := re.search(rf"{before}(left|middle|right) {text}\b", track.instruction):
                return found.group(1)
    return ""


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
        return " and ".join(self._told(segments))

    def plan(self, segments: tuple[Segment, ...]) -> str:
        """The subtasks of the episode; of several goals only the act that achieves each, after what is set aside."""
        if len({part.goal for part in segments}) > 1:
            aside = dict.fromkeys(self.subtask(part) for part in segments if part.kind == "set aside")
            return ", then ".join([*aside, *self._told(segments)])
        first, *rest = dict.fromkeys(part.kind for part in segments)
        names = self.names[segments[0].goal]
        steps = (PLAN_STEPS[kind].format(**names) for kind in rest if kind in PLAN_STEPS)
        return ", ".join([SUBTASKS[first].format(**names), *steps])

    def say(self, variants: Sequence[str], part: Segment) -> str:
        """One of the variants, the same throughout a segment."""
        chosen = choose(variants, self.episode, part.kind, part.goal)
        return chosen.format_map({**_LATER, **self.names[part.goal]})

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
                return self._rise(track, part, step, move)
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

    def _rise(self, track: SceneTrack, part: Segment, step: int, move: str) -> str:
        height = track.position[:, track.index(self.goals[part.goal].subject), 2]
        cm = round(100 * float(height[part.stop - 1] - height[step]))
        if cm > 0:
            return self.say(RISING, part).replace("{cm}", str(cm))
        return self.say(RISING_ON if "up" in move.split(",")[0].split() else RISEN, part)

    def _travel(self, track: SceneTrack, part: Segment, step: int) -> str:
        """What a joint has left to the step at which its goal is reached."""
        joint = track.joint[:, part.goal]
        left = abs(float(joint[min(part.stop, track.num_steps - 1)] - joint[step]))
        cm, degrees = round(100 * left), round(np.rad2deg(left))
        if "drawer" in self.names[part.goal]["thing"]:
            return self.say(SLIDING, part).replace("{cm}", str(cm)) if cm > 1 else self.say(TRAVELLED, part)
        said = self.say(TURNING, part).replace("{degrees}", str(degrees))
        return said if degrees > 1 else self.say(TRAVELLED, part)

    def _told(self, segments: tuple[Segment, ...]) -> list[str]:
        """A phrase per goal, in order. What the one before named is "it"; a place that they share stands last."""
        order, pushed = _order(segments), {part.goal for part in segments if part.kind == "push"}
        told = [self._goal_phrase(goal, "push" if goal in pushed else self.goals[goal].predicate) for goal in order]
        for number, (before, now) in enumerate(itertools.pairwise(order), 1):
            first, second = self.names[before], self.names[now]
            if first["where"] and first["where"] == second["where"]:
                told[number - 1] = told[number - 1].removesuffix(f" {first['where']}")
                told[number] = told[number].removeprefix("put ")
            elif self.goals[before].places != self.goals[now].places:
                named = second if self.goals[before].places else first  # what opens, closes or turns
                if f"the {named['thing']}" in told[number - 1]:
                    told[number] = told[number].replace(f"the {named['thing']}", "it")
        return told

    def _goal_phrase(self, goal: int, act: str) -> str:
        acts = {"push": "push the {thing} {toward}", "turnon": "turn on the {thing}"}
        acts |= {"open": "open the {thing}", "close": "close the {thing}"}
        return acts.get(act, "put the {thing} {where}").format(**self.names[goal])


def _names(track: SceneTrack, labels: tuple[str, ...], goal: Goal) -> dict[str, str]:
    subject = track.index(goal.subject)
    if not goal.places:
        owner = track.names[subject], labels[subject]
        part = part_label(goal.subject, *owner)
        handle = handle_label(goal.subject, *owner)
        where = {"where": "", "toward": "", "goal_owner": part}
        return {"thing": part, "handle": handle, "turned": handle.partition(" ")[0], **where}
    target = _landmark(track, goal.target)
    where = region_phrase(goal.target, track.names[target], labels[target], goal.predicate)
    toward = where.replace("in front of", "to the front of")
    thing = labels[subject]
    return {"thing": thing, "handle": thing, "where": where, "toward": toward, "goal_owner": labels[target]}


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
