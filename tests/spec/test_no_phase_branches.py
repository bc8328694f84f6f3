"""Phases are data: no Python file knows a phase's name, apart from the scripts called after one."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "configs", ROOT / "configs" / "ablations")
PHASES = {path.stem for folder in FOLDERS for path in folder.glob("*.yaml")} - {"base", "study"}
PACKAGES = ("configs", "data_pipeline", "flow_pipeline", "training", "evaluation", "experiment")


def test_there_are_phases():
    assert {"baseline", "text_cot", "text_flow_cot"} <= PHASES


def test_no_phase_name_is_a_string_outside_docstrings():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not strings & PHASES, f"{path.relative_to(ROOT)} names {strings & PHASES}"


def test_no_phase_name_is_compared_with_a_word():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    sides = [node.left, *node.comparators]
                    words = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
                    named = any(ast.unparse(side).endswith(("phase.name", "phase_name", "phase")) for side in sides)
                    assert not (words and named), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_scripts_are_short():
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 10, path.name
