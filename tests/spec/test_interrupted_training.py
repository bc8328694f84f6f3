"""A training command that is told to stop saves its work, exits with 75, and the same command goes on bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["preset=tiny", "data.demos_per_task=2", "data.tasks.object=[0]", "max_train_steps=12"]
TRAINING = ["trainer.checkpoint_every=5", "validation.every=6", "validation.samples=2"]

pytestmark = [pytest.mark.slow, pytest.mark.sim]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the command ran to its end."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(folder))[0] == 0
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A folder that has the demonstrations, and no adapter yet."""
    for stage in ("demos", "regenerate", "split", "shipped"):
        shutil.copytree(whole / "outputs" / ".store" / stage, tmp_path / "outputs" / ".store" / stage)
    return tmp_path


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    places = ["--data_dir", str(folder / "data"), "--output_dir", str(folder / "outputs"), "--name", "small"]
    script = str(ROOT / "scripts" / "train_baseline.py")
    command = [sys.executable, script, "--subset", "object", *places, *SMALL, *TRAINING, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def lines(folder: Path) -> list[dict[str, float]]:
    """Of metrics.jsonl, finished or not."""
    found = [path for path in (folder / "outputs" / ".store").glob("**/metrics.jsonl") if path.is_file()]
    return [json.loads(line) for line in found[0].read_text().splitlines()] if found else []


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 300
    while len(lines(folder)) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def adapter(folder: Path) -> bytes:
    made = folder / "outputs" / "baseline@small" / "object" / "checkpoint-final" / "adapter_model.safetensors"
    return made.read_bytes()


def test_sigterm_saves_exits_75_and_the_same_command_goes_on(whole: Path, folder: Path) -> None:
    for steps in (2, 7):
        process = start(folder)
        wait_for_steps(folder, steps)
        process.send_signal(signal.SIGTERM)
        code, said = finish(process)
        assert code == 75, said
        assert "resume with: python" in said
        assert steps <= len(lines(folder)) < 12
    code, said = finish(start(folder))
    assert code == 0, said
    assert lines(folder) == lines(whole)
    assert adapter(folder) == adapter(whole)
