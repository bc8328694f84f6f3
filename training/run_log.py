"""Where a run can be watched besides metrics.jsonl: event files for TensorBoard, Weights & Biases; neither fails it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

TENSORBOARD_FOLDER = "tensorboard"
FLUSH_S = 10  # seconds until TensorBoard sees a step; a killed run loses so much of its drawing, never of metrics.jsonl
_INIT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 60.0  # what is not sent by then stays on the disk, for `wandb sync`


class RunLog(Protocol):
    """One place."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of one step."""
        ...

    def close(self) -> None:
        """The run has ended, one way or another."""
        ...


def open_logs(names: Sequence[str], work: Path, run_name: str, done: int = 0) -> list[RunLog]:
    """names: tensorboard, wandb. Files go to work/tensorboard and to $WANDB_DIR, else ./wandb.

    done: steps of the run that are done; later ones, drawn before it was killed, are drawn again.
    """
    made: list[RunLog] = []
    if "tensorboard" in names:
        made.append(_TensorBoard(work / TENSORBOARD_FOLDER, done))
    if "wandb" in names:
        opened = _open_wandb(run_name)
        made += [opened] if opened is not None else []
    return made


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row can be drawn."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, (int, float)) and math.isfinite(value)
    }


class _TensorBoard:
    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1, flush_secs=FLUSH_S)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _open_wandb(run_name: str) -> RunLog | None:
    """As $WANDB_MODE says; offline without a key or a network, absent where the package itself fails: one line each."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        mode = "offline"
        print("wandb: no WANDB_API_KEY, so offline; `wandb sync` sends the files later", file=sys.stderr)
    for attempt in (mode, "offline") if mode == "online" else (mode,):
        try:
            settings = wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_TIMEOUT_S,
                finish_timeout=_FINISH_TIMEOUT_S,
                x_disable_stats=True,
            )
            return _Wandb(wandb.init(project="nora-ecot", name=run_name, mode=attempt, settings=settings))
        except (wandb.Error, OSError) as error:
            print(f"wandb: {attempt} did not start ({type(error).__name__})", file=sys.stderr)
    return None
