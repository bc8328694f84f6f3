"""Phases are data: no Python file knows a phase's name, apart from the scripts called after one."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHASES = {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"base", "study"}
PACKAGES = ("configs", "data_pipeline", "flow_pipeline", "training", "evaluation", "experiment")


def test_there_are_phases():
    assert {"baseline", "text_cot", "text_flow_cot"} <= PHASES


def test_no_phase_name_is_a_string_outside_docstrings():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not strings & PHASES, f"{path.relative_to(ROOT)} names {strings & PHASES}"


def test_no_comparison_with_a_phase_name():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    sides = [node.left, *node.comparators]
                    assert not any(_is_phase_name(side) for side in sides), f"{path.name}:{node.lineno}"


def _is_phase_name(side):
    """`phase.name`, `config.phase.name`, `spec.phase` used in a comparison."""
    text = ast.unparse(side)
    return text.endswith(("phase.name", "phase_name"))


def test_scripts_are_short():
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 10, path.name
