"""Annotations of embodied-CoT's published layouts -> ours. What a layout does not say is absent, and said to be.

Two layouts are read besides our own:

- Bridge's: ``{file: {episode: {metadata, features, reasoning: {step: {task, plan, ...}}}}}``. Their writer calls the
  gripper's track `gripper_positions`, their reader expects `gripper_position`; both are taken.
  (github.com/MichalZawalski/embodied-CoT, scripts/generate_embodied_data and prismatic/vla/datasets/rlds/dataset.py)
- LIBERO-90's: ``{file: {demo: {step: {plan, subtask, subtask_reasoning, movement, movement_reasoning, ...}}}}``.
  (huggingface.co/datasets/Embodied-CoT/embodied_features_and_demos_libero) Its boxes and gripper positions are left
  out: neither the order of their corners nor the size of their picture is documented.

Points and boxes of the first are taken as they are there: x, y in a 256 px picture turned by 180 degrees, as OpenVLA's
LIBERO data have it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import ConfigError, check
from configs.choices import Component, Subset
from data_pipeline.contract import POINT_GRID, Annotation, BoundingBox, EpisodeId, StepReasoning
from data_pipeline.gripper_positions import future_track
from data_pipeline.libero_utils import SUITE_OF, task_in_words

AUTHOR = "embodied-CoT"
_SPELLINGS: Mapping[Component, Sequence[str]] = {
    Component.TASK: ("task",),
    Component.PLAN: ("plan",),
    Component.SUBTASK_REASONING: ("subtask_reason", "subtask_reasoning"),
    Component.SUBTASK: ("subtask",),
    Component.MOVE_REASONING: ("move_reason", "move_reasoning", "movement_reasoning"),
    Component.MOVE: ("move", "movement"),
}
_GRIPPER = ("gripper_position", "gripper_positions")
_RESERVED = re.compile(
    r"(?<!\S)(" + "|".join([*(c.name.replace("_", " ") for c in Component), "FLOW", "ACTION"]) + "):"
)


@dataclass
class Imported:
    """What became of a file."""

    annotations: dict[EpisodeId, Annotation] = field(default_factory=dict[EpisodeId, Annotation])
    files: dict[EpisodeId, str] = field(default_factory=dict[EpisodeId, str])
    counts: Counter[str] = field(default_factory=Counter[str])  # what was left out, and how often

    @property
    def absent(self) -> tuple[Component, ...]:
        """Components that no step of any episode has."""
        steps = [step for annotation in self.annotations.values() for step in annotation.steps if step is not None]
        return tuple(c for c in Component if all(c in step.absent for step in steps))

    def lines(self) -> list[str]:
        """What was taken and what is absent, for people."""
        reasoned = sum(step is not None for a in self.annotations.values() for step in a.steps)
        steps = sum(len(a.steps) for a in self.annotations.values())
        said = [
            f"{AUTHOR} annotations: {len(self.annotations)} demonstrations, {reasoned} of {steps} steps with reasoning"
        ]
        said += [f"absent, and never written: {', '.join(c.value for c in self.absent)}"] if self.absent else []
        return said + [f"left out: {count} {what}" for what, count in sorted(self.counts.items())]


def is_ours(tree: Mapping[str, Any]) -> bool:
    """Whether a tree is an annotations.json of this project, whatever its version."""
    entries = [entry for episodes in tree.values() if isinstance(episodes, Mapping) for entry in episodes.values()]
    return all(isinstance(e, Mapping) and "format" in _mapping(e.get("metadata")) for e in entries)


def import_annotations(path: Path, tree: Mapping[str, Any], subset: Subset) -> Imported:
    """The episodes of one subset. Raises ConfigError where there is none, or where an entry has another shape."""
    found = Imported()
    for file, episodes in tree.items():
        check(
            isinstance(episodes, Mapping),
            f"{path}: {file}: expected an object of episodes, found {type(episodes).__name__}",
        )
        task = task_in_words(subset, Path(file).name.removesuffix(".hdf5").removesuffix("_demo"))
        if task is None:
            found.counts[f"files that are no task of {SUITE_OF[subset]}"] += 1
            continue
        for number, entry in episodes.items():
            check(str(number).isdigit(), f"{path}: {file}: {number!r} is no number of a demonstration")
            episode = EpisodeId(subset, task, int(number))
            found.annotations[episode] = _annotation(episode, entry, f"{path}: {file}: {number}", found.counts)
            found.files[episode] = Path(file).name
    check(
        bool(found.annotations),
        f"{path} has no demonstration of {SUITE_OF[subset]}; its first file is {next(iter(tree), 'missing')!r}, and "
        "files are called <task name>_demo.hdf5",
    )
    check(len(found.absent) < len(Component), f"{path} has no reasoning for {SUITE_OF[subset]} that could be read")
    return found


def read_tree(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError where the file holds none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    check(isinstance(tree, dict), f"{path} must hold a JSON object of files")
    return tree


# ------------------------------------------------------------------ one episode


def _annotation(episode: EpisodeId, entry: Any, where: str, counts: Counter[str]) -> Annotation:
    check(isinstance(entry, Mapping), f"{where}: expected an object, found {type(entry).__name__}")
    published = "reasoning" in entry or "features" in entry
    words = {
        int(t): step for t, step in _mapping(entry.get("reasoning") if published else entry).items() if t.isdigit()
    }
    features = _mapping(entry.get("features")) if published else {}
    if not published:
        counts["boxes and gripper positions of a layout that does not say their corners' order"] += any(
            "bboxes" in _mapping(step) for step in words.values()
        )
    steps = int(_mapping(entry.get("metadata")).get("n_steps", max(words, default=-1) + 1))
    absent = _absent(words, features)
    made = tuple(_step(_mapping(words.get(t)), features, t, absent, counts) for t in range(steps))
    return Annotation(episode, made, {c.value: AUTHOR for c in Component if c not in absent})


def _absent(words: Mapping[int, Any], features: Mapping[str, Any]) -> frozenset[Component]:
    """What no step of an episode has."""
    given = {name for step in words.values() for name, value in _mapping(step).items() if value}
    absent = {c for c, names in _SPELLINGS.items() if not given & set(names)}
    absent |= set() if features.get("bboxes") else {Component.VISIBLE_OBJECTS}
    return frozenset(absent | (set() if _track(features) is not None else {Component.GRIPPER_POSITION}))


def _step(
    words: Mapping[str, Any], features: Mapping[str, Any], t: int, absent: frozenset[Component], counts: Counter[str]
) -> StepReasoning | None:
    """None where a step lacks words that others of its episode have, or where they cannot stand in a sequence."""
    texts = {c: _text(words, names) for c, names in _SPELLINGS.items() if c not in absent}
    if not all(texts.values()):
        counts["steps without (whole) reasoning"] += 1
        return None
    if any(_RESERVED.search(text) or "<|" in text or not text.isprintable() for text in texts.values()):
        counts["steps whose text holds a tag or a control token"] += 1
        return None
    track = _track(features)
    return StepReasoning(
        task=texts.get(Component.TASK, ""),
        plan=texts.get(Component.PLAN, ""),
        visible_objects=tuple(_boxes(features, t)) if Component.VISIBLE_OBJECTS not in absent else (),
        subtask_reasoning=texts.get(Component.SUBTASK_REASONING, ""),
        subtask=texts.get(Component.SUBTASK, ""),
        move_reasoning=texts.get(Component.MOVE_REASONING, ""),
        move=texts.get(Component.MOVE, ""),
        gripper=future_track(track, t) if track is not None else (),
        absent=absent,
    )


def _text(words: Mapping[str, Any], names: Sequence[str]) -> str:
    """One line; the numbered steps of a plan are joined."""
    value = next((words[name] for name in names if words.get(name)), "")
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return ", ".join(filter(None, (" ".join(str(part).split()) for part in parts)))


def _boxes(features: Mapping[str, Any], t: int) -> list[BoundingBox]:
    """Their [confidence, name, [x0, y0, x1, y1]]; brackets are no part of a name."""
    listed = features["bboxes"][t] if t < len(features["bboxes"]) else []
    return [
        BoundingBox(
            name, *np.clip(np.rint(box), 0, POINT_GRID - 1).astype(int).tolist(), visible=min(float(share), 1.0)
        )
        for share, raw, box in listed
        if (name := " ".join(re.sub(r"[\[\],]", " ", str(raw)).split()))
    ]


def _track(features: Mapping[str, Any]) -> np.ndarray | None:
    """The gripper's positions, float [T, 2]; None where they are missing at some step."""
    points = next((features[name] for name in _GRIPPER if features.get(name)), None)
    if points is None or any(point is None or np.size(point) != 2 for point in points):
        return None
    return np.array(points, float).reshape(len(points), 2)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
