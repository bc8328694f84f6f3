"""Places where a run can be watched: TensorBoard's reader finds every number; W&B never asks, hangs or fails a run."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.training_study import TRAINER, Study
from tests.training.test_lora_trainer import rows
from training.run_log import TENSORBOARD_FOLDER, numbers, open_logs

KEY = "0123456789" * 4


def drawn(work: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, as TensorBoard reads them."""
    events = EventAccumulator(str(work / TENSORBOARD_FOLDER)).Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_reads_what_a_run_wrote(study: Study) -> None:
    work = study.train("drawn", steps=3, trainer=replace(TRAINER, log=("tensorboard",)))
    found = drawn(work)
    assert {"loss", "loss_action", "lr", "grad_norm", "action_accuracy", "samples_per_s"} <= found.keys()
    for name in ("loss", "lr", "grad_norm"):
        assert found[name] == pytest.approx({step: row[name] for step, row in enumerate(rows(work), 1)}, rel=1e-6)


def test_steps_that_a_killed_run_drew_are_drawn_again(tmp_path: Path) -> None:
    for done, steps, loss in ((0, range(1, 6), 1.0), (3, range(4, 7), 2.0)):
        (log,) = open_logs(["tensorboard"], tmp_path, "x", done)
        for step in steps:
            log.write(step, {"loss": loss})
        log.close()
    assert drawn(tmp_path)["loss"] == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0}


def test_only_finite_numbers_are_drawn() -> None:
    row = {"step": 3, "loss": 0.5, "loss_text": None, "skipped": False, "bad": float("nan")}
    assert numbers(row) == {"loss": 0.5, "skipped": 0.0}


def test_nothing_is_imported_unless_asked() -> None:
    code = (
        "import sys, pathlib; from training.run_log import open_logs; "
        "assert open_logs([], pathlib.Path(), 'x') == []; assert not {'wandb', 'tensorboard'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def watched_by_wandb(folder: Path, **environment: str) -> list[str]:
    """Log one step to W&B in a process of its own, at a terminal that nobody answers. Returns its own lines."""
    code = (
        "import pathlib; from training import run_log; run_log._INIT_TIMEOUT_S = 3.0\n"
        "for log in run_log.open_logs(['wandb'], pathlib.Path(), 'a run'): log.write(1, {'loss': 0.5}); log.close()"
    )
    given = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    _, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**given, "HOME": str(folder), "WANDB_DIR": str(folder), **environment},
    )
    os.close(terminal)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("wandb: ") and "[" not in line]


@pytest.mark.slow
def test_wandb_without_a_key_is_offline_with_one_line(tmp_path: Path) -> None:
    for mode in ({}, {"WANDB_MODE": "online"}):
        (said,) = watched_by_wandb(tmp_path, **mode)
        assert "no WANDB_API_KEY, so offline" in said
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_wandb_with_a_key_and_no_server_goes_offline(tmp_path: Path, server: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "never answers":
            listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        said = watched_by_wandb(tmp_path, WANDB_API_KEY=KEY, WANDB_MODE="online", WANDB_BASE_URL=url)
    assert said == ["wandb: online did not start (CommError)"]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "files"), [("offline", 1), ("disabled", 0)])
def test_wandb_does_what_its_own_variable_says(tmp_path: Path, mode: str, files: int) -> None:
    said = watched_by_wandb(tmp_path, WANDB_API_KEY=KEY, WANDB_MODE=mode)
    assert not said
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == files
