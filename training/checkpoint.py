"""Exact resume: everything the next step depends on, on the disk, and back.

Unfinished runs live in ``<work>/resume/step-000020``: weights, optimiser, step, written aside and renamed;
the logs, one line per step, are cut back to the step that is resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_map

from training.run import Run
from training.sharding import share_like, whole
from training.timing import TIMING_FILE

METRICS_FILE = "metrics.jsonl"
RESUME_FOLDER = "resume"
KEPT = 2  # the newest, and the one before it for a person to go back to


def save(run: Run, work: Path) -> None:
    """Write everything the next step depends on, aside, then rename; older ones are removed after.

    Of several processes the first writes; where they share the model, each must call this.
    """
    weights = {name: whole(p).detach().cpu().contiguous() for name, p in run.parameters.items()}
    optimizer = tree_map(whole, run.optimizer.state_dict())
    if not run.accelerator.is_main_process:
        return
    folder = work / RESUME_FOLDER
    target, temporary = folder / f"step-{run.step:06d}", folder / f"tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(weights, temporary / "weights.safetensors")
    torch.save(optimizer, temporary / "optimizer.pt")
    state = {"step": run.step, "skipped_in_row": run.skipped_in_row, "rows": run.rows}
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    # All on the disk before it replaces the older one: a checkpoint that is ahead of its logs could not be resumed.
    for file in (*temporary.iterdir(), work / METRICS_FILE, work / TIMING_FILE):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    newest = _oldest_first(folder)[-KEPT:]
    for old in folder.iterdir():
        if old not in newest:
            shutil.rmtree(old)


def restore(run: Run, work: Path, *, cut: bool = True) -> None:
    """Take up the newest checkpoint of `work`, if any. cut: and cut the logs back to it."""
    found = _oldest_first(work / RESUME_FOLDER)
    if found:
        state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        weights = load_file(found[-1] / "weights.safetensors")
        assert weights.keys() == run.parameters.keys(), "this checkpoint belongs to another model"
        with torch.no_grad():
            for name, parameter in run.parameters.items():
                parameter.copy_(share_like(parameter, weights[name]))
        optimizer = torch.load(found[-1] / "optimizer.pt", map_location="cpu", weights_only=True)
        for number, parameter in enumerate(run.parameters.values()):
            moments = optimizer["state"].get(number, {})
            moments |= {name: share_like(parameter, value) for name, value in moments.items()}
        run.optimizer.load_state_dict(optimizer)
        run.step, run.skipped_in_row, run.rows = state["step"], state["skipped_in_row"], state["rows"]
    if cut:
        for name in (METRICS_FILE, TIMING_FILE):
            _cut(work / name, run.step)


def _oldest_first(folder: Path) -> list[Path]:
    """By number: a millionth step has a digit more than its folder's name was made for."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _cut(path: Path, steps: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
    assert len(lines) == steps, f"{path} has {len(lines)} rows, the checkpoint {steps} steps"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)
