"""A step's reasoning as one line of text in embodied-CoT's vocabulary, and back. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from configs.choices import Component, Role
from data_pipeline.contract import BoundingBox, StepReasoning

TAGS = tuple(component.name.replace("_", " ") for component in Component)

_NO_OBJECTS = "none"
_ANY_TAG = re.compile(r"(?<!\S)(" + "|".join((*TAGS, "FLOW", "ACTION")) + "):")
_REASONING = re.compile("".join(rf"(?<!\S){tag}:(.*?)" for tag in TAGS) + r"\Z", re.DOTALL)
_BOX = re.compile(r"(?P<name>[^\[\]]+?) \[(\d+), (\d+), (\d+), (\d+)\](?:, |\Z)")


def render_reasoning(reasoning: StepReasoning, without: Collection[Component | Role] = ()) -> str:
    """The chain of thought as one line, without FLOW and ACTION, and without some of its components.

    Raises ValueError where a text contains a tag, a line break or a control token, or a name contains a bracket:
    it could not be read back.
    """
    boxes = ", ".join(f"{b.name} [{b.x0}, {b.y0}, {b.x1}, {b.y1}]" for b in reasoning.visible_objects)
    points = ", ".join(f"{x}, {y}" for x, y in reasoning.gripper)
    values = (
        _plain(reasoning.task),
        _plain(reasoning.plan),
        boxes or _NO_OBJECTS,
        _plain(reasoning.subtask_reasoning),
        _plain(reasoning.subtask),
        _plain(reasoning.move_reasoning),
        _plain(reasoning.move),
        f"[{points}]",
    )
    for box in reasoning.visible_objects:
        if not box.name or box.name != _plain(box.name).strip(" ,") or set(box.name) & set("[]"):
            raise ValueError(f"object name {box.name!r} cannot be written as 'name [x0, y0, x1, y1]'")
    written = zip(Component, TAGS, values, strict=True)
    return " ".join(f"{tag}: {value}" for c, tag, value in written if c not in without and c not in reasoning.absent)


def parse_reasoning(text: str) -> StepReasoning | None:
    """Inverse of `render_reasoning`; text after a FLOW or ACTION tag is ignored. None where it is malformed."""
    tail = re.search(r"(?<!\S)(FLOW|ACTION):", text)
    found = _REASONING.match(text[: tail.start()].strip() if tail else text.strip())
    if found is None:
        return None
    task, plan, objects, why_subtask, subtask, why_move, move, gripper = (value.strip() for value in found.groups())
    boxes, points = _parse_boxes(objects), _parse_points(gripper)
    if boxes is None or points is None:
        return None
    return StepReasoning(task, plan, boxes, why_subtask, subtask, why_move, move, points)


def _plain(text: str) -> str:
    if _ANY_TAG.search(text) or "<|" in text or text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} cannot stand in a chain of thought: tags, line breaks and edge spaces are reserved")
    return text


def _parse_boxes(text: str) -> tuple[BoundingBox, ...] | None:
    if text == _NO_OBJECTS:
        return ()
    found = list(_BOX.finditer(text))
    if not found or "".join(m.group() for m in found) != text:
        return None
    return tuple(BoundingBox(m["name"], *(int(g) for g in m.groups()[1:])) for m in found)


def _parse_points(text: str) -> tuple[tuple[int, int], ...] | None:
    if re.fullmatch(r"\[(\d+, \d+(, \d+, \d+)*)?\]", text) is None:
        return None
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
