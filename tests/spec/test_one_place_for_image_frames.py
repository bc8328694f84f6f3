"""Pictures, points, boxes and flow change their frame in `data_pipeline/image_frame.py` and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "configs",
    "data_pipeline",
    "flow_pipeline",
    "training",
    "evaluation",
    "experiment",
    "scripts",
    "benchmarks",
)
HOME = "data_pipeline/image_frame.py"
NOT_CONVERSIONS = {
    "data_pipeline/sim/builtin_objects.py",  # a texture is painted from its lower edge
    "data_pipeline/sim/hand_contacts.py",  # the two ends of a contact
    "evaluation/oracle_faults.py",  # tries every turn, to name the one that a deployment has wrong
}
TURNS = {"flip", "fliplr", "flipud", "rot90", "ROTATE_180", "FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM"}


def turns(tree: ast.AST) -> list[int]:
    """Lines that turn or mirror an array of two axes or more."""
    named = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in TURNS]
    sliced = [n for n in ast.walk(tree) if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Tuple)]
    return named + [n.lineno for n in sliced if any(is_backwards(part) for part in n.slice.elts)]


def is_backwards(part: ast.expr) -> bool:
    step = part.step if isinstance(part, ast.Slice) else None
    return step is not None and ast.unparse(step).startswith("-1")


def test_nothing_else_turns_a_picture() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (lines := turns(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert HOME in found, "the check sees what it is looking for"
    assert set(found) <= {HOME, *NOT_CONVERSIONS}, found


@pytest.mark.parametrize("line", ["image[::-1, ::-1]", "image[:, ::-1]", "np.flip(image)", "cv2.flip(image, -1)"])
def test_what_counts_as_a_turn(line: str) -> None:
    assert turns(ast.parse(line))
    assert not turns(ast.parse("np.arange(4)[::-1]"))
