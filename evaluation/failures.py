"""Why an episode failed: its milestones -> one category, by how far it came. Pure.

Each goal that does not hold at the end is judged by the first line that is true, S being its object or its moving part:

    about a place                                     about a joint                             category
    the goal held at some step                        the goal held at some step                reached, then lost
    S is in the hand at the end                       the joint is on its way at the end        out of time
    S was lifted, and let go near its place, or set   -                                         misplaced
      down elsewhere; or S was pushed nearer to it
    S was lifted, and let go anywhere else            the joint was on its way and went back    dropped
    another object was grasped, or another part opened or shut, before S was grasped; or S was
      never touched and the robot moved another object                                          wrong object
    the robot touched S, or the hand came near it, be it for another goal                       not grasped
    none of these                                                                               never touched

An episode has the category of the goal that came furthest (the order of `Category`). A goal that a stated one needs
first (an opened drawer) is judged as the others are, and counts as reached once it held. Goals that hold from the start
are not counted. An action that was not finite is the policy's fault, whatever came before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from data_pipeline.milestones import FELL_M, MOVED_M
from evaluation.episodes import EpisodeResult, Outcome
from evaluation.rollout import NOT_FINITE

APPROACHED_M = 0.03
"""From the point between the fingertips to a surface: the hand came near."""
NEAR_PLACE_M = 0.10
"""Sideways, from where it was let go to the middle of its place: half the width of the basket, and some."""
ON_ITS_WAY = 0.1
"""Share of a joint's way to its goal."""


class Category(StrEnum):
    """How an episode ended; the failures in order of how far they came."""

    SUCCESS = "success"
    POLICY_FAULT = "policy fault"
    NEVER_TOUCHED = "never touched"
    WRONG_OBJECT = "wrong object"
    NOT_GRASPED = "not grasped"
    DROPPED = "dropped"
    MISPLACED = "misplaced"
    LOST = "reached, then lost"
    OUT_OF_TIME = "out of time"
    ERROR = "simulator error"


_HOW_FAR = {category: number for number, category in enumerate(Category)}


@dataclass(frozen=True)
class Verdict:
    """One episode's category, the goal that decided it ("" for none) and how many goals were reached."""

    category: Category
    goal: str = ""
    reached: int = 0
    goals: int = 0

    def __str__(self) -> str:
        """For people: `1 of 2 goals reached, then dropped`."""
        reached = f"{self.reached} of {self.goals} goals reached, then " if self.goals > 1 else ""
        return f"{reached}{self.category}" + (f" ({self.goal})" if self.goal else "")


def judge(result: EpisodeResult) -> Verdict:
    """Raises KeyError for a failure without milestones (see `told`)."""
    if result.outcome is Outcome.SUCCESS:
        return Verdict(Category.SUCCESS)
    if result.outcome is Outcome.ERROR:
        return Verdict(Category.ERROR)
    if result.reason == NOT_FINITE:
        return Verdict(Category.POLICY_FAULT)
    return judge_milestones(result.milestones)


def told(results: Sequence[EpisodeResult]) -> bool:
    """Whether every failure can be judged: evaluations from before these milestones were recorded cannot."""
    failed = [r for r in results if r.outcome is Outcome.FAILURE and r.reason != NOT_FINITE]
    return all(r.milestones.keys() >= {"goals", "objects", "parts"} for r in failed)


def judge_milestones(milestones: Mapping[str, Any]) -> Verdict:
    """Of a failure. milestones: as `data_pipeline.milestones.milestones` makes them."""
    objects = milestones["objects"]
    goals = [goal for goal in milestones["goals"] if goal["first"] != 0 or not goal["end"]]
    pending = [goal for goal in goals if not _reached(goal)]
    reached = len(goals) - len(pending)
    others = _others(milestones)
    judged = [(_judge_goal(goal, objects, others), goal["goal"]) for goal in pending]
    if not judged:  # all hold now, and did not when success was read
        return Verdict(Category.LOST, "", reached, len(goals))
    category, goal = max(judged, key=lambda pair: _HOW_FAR[pair[0]])
    return Verdict(category, goal, reached, len(goals))


def _reached(goal: Mapping[str, Any]) -> bool:
    return goal["first"] is not None if goal["implied"] else goal["end"]


@dataclass(frozen=True)
class _Others:
    """What the robot did to things that no goal asks to move."""

    taken: tuple[int, ...]  # steps at which an object was grasped, or a drawer, door or knob moved
    moved: bool  # an object, however it was

    def came_first(self, grasped: int | None, *, touched: bool) -> bool:
        """Before the right thing was grasped (None: never), or in place of touching it."""
        return any(grasped is None or step < grasped for step in self.taken) or (self.moved and not touched)


def _others(milestones: Mapping[str, Any]) -> _Others:
    subjects = {_subject(goal) for goal in milestones["goals"]}
    objects = [told for name, told in milestones["objects"].items() if name not in subjects]
    grasped = [told["grasped"] for told in objects if told["grasped"] is not None]
    moved = any(told["touched"] is not None and told["moved"] is not None for told in objects)
    return _Others((*grasped, *(part["moved"] for part in milestones["parts"].values())), moved)


def _subject(goal: Mapping[str, Any]) -> str:
    return goal["goal"].split()[1]


def _judge_goal(goal: Mapping[str, Any], objects: Mapping[str, Any], others: _Others) -> Category:
    if goal["first"] is not None:
        return Category.LOST
    subject = objects.get(_subject(goal))
    handled = _judge_place(goal, subject) if subject is not None else _judge_joint(goal)
    if handled is not None:
        return handled
    grasped = None if subject is None else subject["grasped"]
    if others.came_first(grasped, touched=goal["touched"] is not None):
        return Category.WRONG_OBJECT
    near = goal["touched"] is not None or goal["closest_m"] <= APPROACHED_M
    return Category.NOT_GRASPED if near else Category.NEVER_TOUCHED


def _judge_place(goal: Mapping[str, Any], subject: Mapping[str, Any]) -> Category | None:
    """None where it was never lifted nor brought nearer."""
    if subject["held"]:
        return Category.OUT_OF_TIME
    if subject["lifted"] is not None:
        near = goal["away_let_go_m"] is not None and goal["away_let_go_m"] <= NEAR_PLACE_M
        set_down = subject["fell_m"] <= FELL_M and subject["moved_m"] > MOVED_M
        return Category.MISPLACED if near or set_down else Category.DROPPED
    pushed = subject["touched"] is not None and goal["away_start_m"] - goal["away_end_m"] > MOVED_M
    return Category.MISPLACED if pushed else None


def _judge_joint(goal: Mapping[str, Any]) -> Category | None:
    """None where it did not move towards its goal."""
    if goal["progress_end"] >= ON_ITS_WAY:
        return Category.OUT_OF_TIME
    return Category.DROPPED if goal["progress_max"] >= ON_ITS_WAY else None


# ------------------------------------------------------------------ many episodes


def tally(results: Iterable[EpisodeResult]) -> dict[Category, int]:
    """How many episodes ended in each category, in their order; categories without any are left out."""
    found = [judge(result).category for result in results]
    return {category: found.count(category) for category in Category if category in found}


def moves(before: Iterable[EpisodeResult], after: Iterable[EpisodeResult]) -> dict[tuple[Category, Category], int]:
    """How the episodes that both have (task, initial state, seed, mode) ended, pair by pair, simulator errors apart."""
    earlier, later = ({r.key: judge(r).category for r in results} for results in (before, after))
    pairs = [(earlier[key], later[key]) for key in sorted(earlier.keys() & later.keys())]
    counted = [pair for pair in pairs if Category.ERROR not in pair]
    return {(a, b): counted.count((a, b)) for a in Category for b in Category if (a, b) in counted}
