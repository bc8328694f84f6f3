"""A training command: told to stop it saves, exits 75, and goes on when typed again; launched, it shares a batch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 80
SMALL = ["preset=tiny", "data.demos_per_task=2", "data.tasks.object=[0]", f"max_train_steps={STEPS}"]
LAUNCHED = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
TRAINING = ["trainer.checkpoint_every=5", "validation.every=40", "validation.samples=2"]

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


def start(folder: Path, *more: str, by: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    places = ["--data_dir", str(folder / "data"), "--output_dir", str(folder / "outputs"), "--name", "small"]
    script = str(ROOT / "scripts" / "train_baseline.py")
    command = [*by, script, "--subset", "object", *places, *SMALL, *TRAINING, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def lines(folder: Path) -> list[dict[str, float]]:
    """Of metrics.jsonl, finished or not."""
    found = [path for path in (folder / "outputs" / ".store").glob("**/metrics.jsonl") if path.is_file()]
    return [json.loads(line) for line in found[0].read_text().splitlines()] if found else []


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 900  # a machine may be busy with other work
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
        assert steps <= len(lines(folder)) < STEPS
    code, said = finish(start(folder))
    assert code == 0, said
    assert lines(folder) == lines(whole)
    assert adapter(folder) == adapter(whole)


def descendants(parent: int) -> list[int]:
    """Processes below one, however deep."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    found = [parent]
    for above in found:
        found += [pid for pid, its_parent in parents.items() if its_parent == above]
    return found[1:]


def other_rank(launcher: int) -> int:
    """The process that rank 0 started."""
    (found,) = [p for p in descendants(launcher) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    return found


def test_a_launcher_s_processes_share_the_batch_and_one_that_is_killed_is_replaced(folder: Path) -> None:
    """Two of batch 4 under torchrun are one with twice the accumulation; nothing is left when they end."""
    alone, shared = folder / "alone", folder / "shared"
    batch = ["per_device_batch_size=4", "lora.dropout=0"]
    for place in (alone, shared):
        shutil.copytree(folder / "outputs", place / "outputs")
    code, said = finish(start(alone, *batch, "gradient_accumulation_steps=2"))
    assert code == 0, said
    process = start(shared, *batch, by=LAUNCHED)
    wait_for_steps(shared, 7)
    started = descendants(process.pid)
    os.kill(other_rank(process.pid), signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said
    assert "its worker was killed by SIGKILL" in said
    for row, wanted in zip(lines(shared), lines(alone), strict=True):
        for name in ("loss", "grad_norm", "lr"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-5)
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
