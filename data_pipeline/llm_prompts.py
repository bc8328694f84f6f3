"""What a language model is asked to reword, and how its wordings are put in place. Pure: text in, text out.

A demonstration's reasons are cut into items: one per wording and segment, every measurement replaced by a placeholder
(`it is {m1}`). The model rewords items; measurements, moves, boundaries, boxes and subtasks never reach its answer, so
it cannot change them. `llm_checks` takes an answer item by item; what is not taken keeps the rules' words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

from data_pipeline.contract import EpisodeId

PROMPT_VERSION = 1  # raise it when a change here asks for something else
MAX_MOVES = 12  # names of moves shown per segment
REASONS = ("subtask_reason", "move_reason")  # fields of a step that are reworded per segment
SHARED = ("task", "plan")  # reworded once for all demonstrations that the rules give the same words

_PART = r"\d+(?:\.\d+)?(?: (?:cm|mm|m|degrees|percent))?(?: (?:ahead|behind|left|right|above|below))?"
_MEASURED = re.compile(rf"{_PART}(?:(?:,? and |, ){_PART})*")
PLACEHOLDER = re.compile(r"\{m\d+\}")


@dataclass(frozen=True)
class Problem:
    """Why a wording is not taken: `kind` is counted, `text` is told to the model."""

    kind: str
    text: str


# ------------------------------------------------------------------ a demonstration as items


@dataclass(frozen=True)
class Item:
    """One text to reword: a skeleton of the rules' words, its measurements as `{m1}`, `{m2}`."""

    id: str  # task, plan, s3.1: unique within a demonstration
    rules: str
    field: str  # one of REASONS or SHARED


@dataclass(frozen=True)
class Segment:
    """Consecutive steps start <= t < stop with one subtask."""

    start: int
    stop: int
    subtask: str
    moves: tuple[str, ...]  # each once, in the order of the episode
    items: tuple[Item, ...]
    steps: tuple[tuple[str, str], ...]  # (move, move_reason) of each step


@dataclass(frozen=True)
class Demo:
    """What of one annotated episode matters here. All texts are the rules'."""

    episode: EpisodeId
    task: str
    plan: str
    objects: tuple[str, ...]
    segments: tuple[Segment, ...]
    shared: tuple[Item, ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Demo:
        """From an episode of annotations.json."""
        steps = [entry["reasoning"][str(t)] for t in range(int(entry["metadata"]["n_steps"]))]
        names = dict.fromkeys(name for boxes in entry["features"].get("bboxes", ()) for _, name, _ in boxes)
        runs = [list(run) for _, run in groupby(range(len(steps)), key=lambda t: steps[t]["subtask"])]
        return cls(
            episode=EpisodeId.parse(entry["metadata"]["episode_id"]),
            task=steps[0]["task"],
            plan=steps[0]["plan"],
            objects=tuple(names),
            segments=tuple(_segment(number, run, steps) for number, run in enumerate(runs, 1)),
            shared=tuple(Item(name, skeleton(steps[0][name])[0], name) for name in SHARED if steps[0][name]),
        )

    @property
    def items(self) -> tuple[Item, ...]:
        """Every item of its own, segment by segment."""
        return tuple(item for segment in self.segments for item in segment.items)


def _segment(number: int, run: Sequence[int], steps: Sequence[Mapping[str, str]]) -> Segment:
    wordings = dict.fromkeys((name, skeleton(steps[t][name])[0]) for name in REASONS for t in run if steps[t][name])
    items = tuple(Item(f"s{number}.{i}", text, name) for i, (name, text) in enumerate(wordings, 1))
    pairs = tuple((steps[t]["move"], steps[t]["move_reason"]) for t in run)
    moves = tuple(dict.fromkeys(move for move, _ in pairs))
    return Segment(run[0], run[-1] + 1, steps[run[0]]["subtask"], moves, items, pairs)


@cache  # texts repeat from step to step
def skeleton(text: str) -> tuple[str, tuple[str, ...]]:
    """("it is {m1}", ("6 cm left and 11 cm below",)): a text without its measurements, and those."""
    measured: list[str] = []

    def take(found: re.Match[str]) -> str:
        measured.append(found.group())
        return f"{{m{len(measured)}}}"

    return _MEASURED.sub(take, text), tuple(measured)


def fill(text: str, measured: Sequence[str]) -> str:
    """Inverse of `skeleton`, for any text with the same placeholders."""
    for number, value in enumerate(measured, 1):
        text = text.replace(f"{{m{number}}}", value)
    return text


# ------------------------------------------------------------------ asking

_SYSTEM = """You reword short explanations of what a robot arm does, as training data for a robot policy.
You are given JSON: the task, the objects, and the segments of one demonstration in order. Each segment has its subtask,
the movements that the arm makes in it, and texts to reword, by id. Reword every text:
- same meaning, natural and varied English, lower case, one clause, no final full stop;
- short: at most as many characters as `max_chars` of its text, and shorter is better;
- keep each placeholder such as {m1} exactly as it stands, each once: it stands for a measured offset like "6 cm left";
- write no digits, colons, quotes, brackets or line breaks of your own;
- name no object that the text's demonstration does not have;
- name no direction and no opening or closing of the gripper that is not among the segment's movements or its own text.
Answer with JSON alone: {"items": [{"id": "...", "text": "..."}, ...]}, exactly one entry for each id."""


@dataclass(frozen=True)
class Question:
    """One request: items of one demonstration, and why an earlier wording of them was not taken."""

    demo: Demo
    items: tuple[Item, ...]
    problems: Mapping[str, Problem] = field(default_factory=dict[str, Problem])
    attempt: int = 1  # part of the question: the same one would find its own earlier answer

    def messages(self) -> list[dict[str, str]]:
        """Chat messages; the same question always gives the same bytes."""
        demo, wanted = self.demo, {item.id for item in self.items}
        asked: dict[str, Any] = {"task": demo.task, "plan": demo.plan, "objects": list(demo.objects)}
        if shared := [self._asked(item) for item in demo.shared if item.id in wanted]:
            asked["texts"] = shared
        asked["segments"] = [
            {
                "subtask": segment.subtask,
                "movements": list(segment.moves[:MAX_MOVES]),
                "texts": [self._asked(item) for item in segment.items if item.id in wanted],
            }
            for segment in demo.segments
            if any(item.id in wanted for item in segment.items)
        ]
        user = json.dumps(asked, ensure_ascii=False, separators=(",", ":"))
        if self.problems:
            user += f"\nAttempt {self.attempt}: your earlier texts were not accepted; `problem` says why. Write others."
        return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": user}]

    def max_tokens(self) -> int:
        """Room for an answer at the length limits: at least two characters per token, and the JSON around them."""
        return 32 + sum(24 + max_chars(item) // 2 for item in self.items)

    def _asked(self, item: Item) -> dict[str, Any]:
        asked: dict[str, Any] = {"id": item.id, "text": item.rules, "max_chars": max_chars(item)}
        if item.id in self.problems:
            asked["problem"] = self.problems[item.id].text
        return asked


def max_chars(item: Item) -> int:
    """Longest wording taken: every token is decoded before the robot may move."""
    return max(60, len(item.rules) + 40)


# ------------------------------------------------------------------ putting wordings in their places


def reworded_steps(demo: Demo, entry: Mapping[str, Any], wordings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The `reasoning` of an episode with wordings (item id -> text) in place; everything else as it was."""
    reasoning: dict[str, dict[str, str]] = {}
    for segment in demo.segments:
        by_rules = {(item.field, item.rules): wordings.get(item.id, item.rules) for item in segment.items}
        by_rules |= {(item.field, item.rules): wordings.get(item.id, item.rules) for item in demo.shared}
        for t in range(segment.start, segment.stop):
            step: dict[str, str] = dict(entry["reasoning"][str(t)])
            for name in (*SHARED, *REASONS):
                rules, measured = skeleton(step[name])
                step[name] = fill(by_rules.get((name, rules), rules), measured)
            reasoning[str(t)] = step
    return reasoning
