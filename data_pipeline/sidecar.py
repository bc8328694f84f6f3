"""Annotations on disk: JSON files beside the demonstrations, keyed by episode and step.

`annotations.json` is a superset of embodied-CoT's layout, ``{file: {episode: {metadata, features, reasoning}}}``, with
who wrote each field in ``source``. docs/annotations.schema.json describes it. Saving then loading gives equal values
(what `measured` adds is not read back), and the same values always give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.choices import Component
from data_pipeline.contract import (
    Annotation,
    BoundingBox,
    EnvironmentProblem,
    EpisodeId,
    StepReasoning,
)
from data_pipeline.whole_files import write_synced

ANNOTATE_COMMAND = "python scripts/generate_ecot.py --subset {subset} --output {path}"
ANNOTATIONS_FORMAT = "nora-ecot annotations 2"


# ------------------------------------------------------------------ annotations


def save_annotations(
    path: Path,
    annotations: Mapping[EpisodeId, Annotation],
    *,
    files: Mapping[EpisodeId, str] | None = None,
    measured: Mapping[EpisodeId, Mapping[str, Any]] | None = None,
) -> None:
    """Write annotations atomically, in the order of their ids.

    files: the HDF5 name that an episode stands in (default: its id without the demo, ``object/03``).
    measured: further features, plain JSON values (see `data_pipeline.measured`).
    """
    tree: dict[str, dict[str, Any]] = {}
    for episode in sorted(annotations):
        file = (files or {}).get(episode, f"{episode.subset.value}/{episode.task_id:02d}")
        further = (measured or {}).get(episode, {})
        tree.setdefault(file, {})[str(episode.demo)] = _episode_json(annotations[episode], further)
    write_tree(path, tree)


def merge_annotations(path: Path, parts: Sequence[Path]) -> None:
    """Write one file from several that `save_annotations` wrote, in the order given."""
    tree: dict[str, dict[str, Any]] = {}
    for part in parts:
        for file, episodes in read_tree(part, ANNOTATE_COMMAND).items():
            tree.setdefault(file, {}).update(episodes)
    write_tree(path, tree)


def load_annotations(path: Path) -> dict[EpisodeId, Annotation]:
    """Read what `save_annotations` wrote. Raises EnvironmentProblem that names the file and the command to make it."""
    tree = read_tree(path, ANNOTATE_COMMAND)
    try:
        entries = [_annotation(entry) for episodes in tree.values() for entry in episodes.values()]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise damaged(path, error, ANNOTATE_COMMAND) from error
    return {entry.episode: entry for entry in sorted(entries, key=lambda a: a.episode)}


def _episode_json(annotation: Annotation, further: Mapping[str, Any]) -> dict[str, Any]:
    steps = annotation.steps
    absent = next((s.absent for s in steps if s), frozenset[Component]())
    features: dict[str, Any] = {"move_primitive": [s.move if s else "" for s in steps]}
    if Component.VISIBLE_OBJECTS not in absent:
        features["bboxes"] = [[_box_json(b) for b in s.visible_objects] if s else [] for s in steps]
    if Component.GRIPPER_POSITION not in absent:
        features["gripper_future"] = [[list(point) for point in s.gripper] if s else [] for s in steps]
    return {
        "metadata": {
            "format": ANNOTATIONS_FORMAT,
            "episode_id": str(annotation.episode),
            "n_steps": len(steps),
            "reasoned_steps": sum(s is not None for s in steps),
            "absent": sorted(absent),
            "points": "x, y on a 256 x 256 grid of the rot180 frame",
        },
        "source": dict(sorted(annotation.source.items())),
        "features": {**features, **further},
        "reasoning": {str(t): _reasoning_json(s) for t, s in enumerate(steps) if s},
    }


def _box_json(box: BoundingBox) -> list[Any]:
    return [round(box.visible, 2), box.name, [box.x0, box.y0, box.x1, box.y1]]


def _reasoning_json(step: StepReasoning) -> dict[str, str]:
    return {
        "task": step.task,
        "plan": step.plan,
        "subtask_reason": step.subtask_reasoning,
        "subtask": step.subtask,
        "move_reason": step.move_reasoning,
        "move": step.move,
    }


def _annotation(entry: Mapping[str, Any]) -> Annotation:
    head, reasoning = entry["metadata"], entry["reasoning"]
    if len(reasoning) != int(head["reasoned_steps"]):
        raise ValueError(f"{len(reasoning)} reasoned steps, expected {head['reasoned_steps']}")
    absent = frozenset(map(Component, head["absent"]))
    steps = tuple(
        _step(reasoning[str(t)], entry["features"], t, absent) if str(t) in reasoning else None
        for t in range(int(head["n_steps"]))
    )
    return Annotation(EpisodeId.parse(head["episode_id"]), steps, dict(entry["source"]))


def _step(words: Mapping[str, str], features: Mapping[str, Any], t: int, absent: frozenset[Component]) -> StepReasoning:
    return StepReasoning(
        task=words["task"],
        plan=words["plan"],
        visible_objects=tuple(
            BoundingBox(name, *map(int, box), visible=float(share)) for share, name, box in _row(features, "bboxes", t)
        ),
        subtask_reasoning=words["subtask_reason"],
        subtask=words["subtask"],
        move_reasoning=words["move_reason"],
        move=words["move"],
        gripper=tuple((int(x), int(y)) for x, y in _row(features, "gripper_future", t)),
        absent=absent,
    )


def _row(features: Mapping[str, Any], name: str, t: int) -> Sequence[Any]:
    """Of one step; nothing where the feature is absent."""
    return features[name][t] if name in features else ()


# ------------------------------------------------------------------ files


def write_tree(path: Path, tree: Any) -> None:
    """Compact JSON, atomically and synced."""
    write_synced(path, json.dumps(tree, ensure_ascii=False, separators=(",", ":")))


def read_tree(path: Path, command: str) -> dict[str, Any]:
    """A JSON object. Raises EnvironmentProblem that names the file and the command that makes it."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EnvironmentProblem(f"{path} does not exist; make it with `{_command(command, path)}`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error, command) from error
    if not isinstance(tree, dict):
        raise damaged(path, TypeError("the top level is not an object"), command)
    return tree


def damaged(path: Path, error: Exception, command: str) -> EnvironmentProblem:
    """What to raise where a file's content is not what it should be."""
    reason = f"{type(error).__name__}: {error}"
    return EnvironmentProblem(
        f"{path} is damaged or of another format ({reason}); make it again with `{_command(command, path)}`"
    )


def _command(command: str, path: Path) -> str:
    return command.format(subset="<subset>", path=path)
