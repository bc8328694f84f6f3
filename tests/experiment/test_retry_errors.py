"""Error rows: exit 3 and the command that runs just these again; everything else is kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiment.cli import main
from experiment.stages import STAGES
from tests.helpers import toy_study

ONE_CELL = ["--phase", "baseline", "--subset", "object"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_study.install(monkeypatch)
    breaks = replace(STAGES["evaluate"], function=f"{toy_study.MODULE}:breaks_once")
    monkeypatch.setitem(STAGES, "evaluate", breaks)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "orig_argv", ["python", "scripts/run_experiment.py", *ONE_CELL])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_command_leaves_errors_and_retry_goes_on_from_the_rows(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("run_experiment", ONE_CELL) == 3
    said = capsys.readouterr().out
    assert "incomplete: 1 episodes" in said
    assert f"  python scripts/run_experiment.py {' '.join(ONE_CELL)} --retry-errors\n" in said

    assert main("run_experiment", ONE_CELL) == 3, "a finished stage does not run again by itself"
    assert "nothing to do" in capsys.readouterr().out

    assert main("run_experiment", [*ONE_CELL, "--retry-errors", "--dry-run"]) == 0
    planned = capsys.readouterr().out.splitlines()
    to_run = [line.split()[:2] for line in planned if line.startswith(("partial", "to run"))]
    assert to_run == [["partial", "evaluate"], ["to", "run"]], "the evaluation, and the report as it changes"

    assert main("run_experiment", [*ONE_CELL, "--retry-errors"]) == 0
    said = capsys.readouterr().out
    assert "evaluate baseline/object: 1 episodes ended in simulator errors" in said
    assert "incomplete" not in said
    assert '"errors": 0' in (project / "outputs/eval_results/baseline/object/summary.json").read_text()
    assert main("run_experiment", [*ONE_CELL, "--retry-errors"]) == 0
    assert "nothing to do" in capsys.readouterr().out, "no errors, nothing to retry"


def test_force_does_everything_again(project: Path) -> None:
    main("run_experiment", ONE_CELL)
    assert main("run_experiment", [*ONE_CELL, "--force", "evaluate", "--retry-errors"]) == 3
