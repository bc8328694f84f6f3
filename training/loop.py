"""The one training loop, for every phase and for the tiny base: fit / train_step.

What a step does depends on (seed, step) and the weights alone, so (k steps, kill, resume) gives the same losses, bit
for bit on the CPU.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from configs.model import OptimizerConfig, TrainerConfig
from data_pipeline.contract import Interrupted, StageContext
from training.checkpoint import METRICS_FILE, restore, save
from training.gradient import compute_gradient, fewer_rows, forward
from training.layout import ROLES
from training.run import Run
from training.run_log import numbers, open_logs
from training.sampling import StepInput
from training.sharding import whole
from training.timing import TIMING_FILE, Timer
from training.validation import Validation

MAX_SKIPPED_IN_ROW = 10
_NO_ROOM = " beside the copy of the model that measures held-out steps; validation.every=0 measures none"


class TrainingDiverged(RuntimeError):
    """The loss was not finite for MAX_SKIPPED_IN_ROW steps in a row."""


def fit(
    run: Run, trainer: TrainerConfig, context: StageContext, keep: Callable[[int], None] = lambda step: None
) -> None:
    """Train to the last step, resuming what `context.work` holds. Raises Interrupted after saving.

    keep: writes a checkpoint that stays, called after every `trainer.keep_every` steps but the last. Of several
    processes the first one writes and decides when to stop; where they share the model, all are called.
    """
    first_process = run.accelerator.is_main_process
    restore(run, context.work, cut=first_process)
    run.model.train()
    timer = Timer(run.step)
    with ExitStack() as open_files:
        metrics, timing = (
            _appended(open_files, context.work / name, first_process) for name in (METRICS_FILE, TIMING_FILE)
        )
        for log in (logs := open_logs(trainer.log, context.work, run.name, run.step) if first_process else []):
            open_files.callback(log.close)
        for step_input in timer.waited_for(stream(run, trainer.num_workers)):
            row = train_step(run, step_input)
            if run.validation is not None and run.validation.is_due(run.step, run.steps):
                row |= validate(run, run.validation)
            metrics.write(json.dumps(row) + "\n")
            took = timer.row(run.step, step_input.samples)
            timing.write(json.dumps(took) + "\n")
            for log in logs:
                log.write(run.step, numbers({**row, **took}))
            if run.step % trainer.log_every == 0 or run.step == run.steps:
                loss = "no finite loss" if row["loss"] is None else f"loss {row['loss']:.3f}"
                context.report(run.step, run.steps, f"{loss} at {timer.steps_per_s(run.step):.2f} steps/s")
            writes = first_process or run.sharded  # what is shared out is gathered from all, and the first writes it
            if writes and _is_due(run, trainer.keep_every) and run.step < run.steps:
                keep(run.step)
            stop = _agreed(run, context.stop_requested())
            if _is_due(run, trainer.checkpoint_every) or stop:
                if writes:
                    save(run, context.work)
                if stop:
                    raise Interrupted


def train_step(run: Run, step_input: StepInput) -> dict[str, Any]:
    """One optimiser step over one global batch. Returns its row of metrics.jsonl."""
    rate = learning_rate(run.schedule, run.step, run.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    measured = compute_gradient(run, step_input, _step_seed(run.seed, run.step))
    means = measured.means
    norm = run.accelerator.clip_grad_norm_(list(run.parameters.values()), run.schedule.max_grad_norm or math.inf)
    assert norm is not None
    norm = whole(norm)
    loss = sum(run.role_weights[role] * mean for role, mean in means.items())
    finite = math.isfinite(loss) and math.isfinite(float(norm))
    if finite:
        run.optimizer.step()
    run.step += 1
    _count_skips(run, finite=finite)
    row: dict[str, Any] = {"step": run.step, "loss": _number(loss), "lr": rate, "grad_norm": _number(float(norm))}
    row |= {f"loss_{role.value}": _number(means.get(role, math.nan)) for role in ROLES if role in run.role_weights}
    return row | measured.figures | {"skipped": not finite}


def validate(run: Run, validation: Validation) -> dict[str, float | None]:
    """Figures of held-out steps, in smaller pieces where memory is short; leaves the run as it was.

    Raises EnvironmentProblem where one sample does not fit.
    """
    run.model.eval()
    rows = run.rows or validation.rows
    while True:
        try:
            with torch.no_grad():
                found = replace(validation, rows=rows).measure(partial(forward, run))
            break
        except torch.OutOfMemoryError:
            rows = fewer_rows(rows, _NO_ROOM)
        torch.cuda.empty_cache()
    run.model.train()
    return {name: _number(value) for name, value in found.items()}


def learning_rate(schedule: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up to the peak, then a cosine to zero at `steps`; step counts from 0."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(steps - schedule.warmup_steps, 1)
    return schedule.learning_rate * (1 + math.cos(math.pi * done)) / 2


def stream(run: Run, num_workers: int) -> Iterator[StepInput]:
    """Inputs of the steps to come."""
    loader = DataLoader(
        run.inputs,
        batch_size=None,
        sampler=range(run.step, run.steps),
        num_workers=num_workers,
        multiprocessing_context="fork"
        if num_workers
        else None,  # a companion was spawned, and would spawn: no closures
        generator=torch.Generator(),  # its own: the global one belongs to the step
    )
    return iter(loader)


def _is_due(run: Run, every: int) -> bool:
    return every > 0 and run.step % every == 0


def _agreed(run: Run, asked: bool) -> bool:  # noqa: FBT001 - what is agreed on
    """The first process's word, heard by all."""
    if run.accelerator.num_processes == 1:
        return asked
    word = torch.tensor(float(asked), device=run.accelerator.device)
    dist.broadcast(word, 0)
    return bool(word)


def _appended(open_files: ExitStack, path: Path, wanted: bool) -> TextIO:  # noqa: FBT001 - whether this process writes
    """Lines reach the disk one by one: a killed run leaves what it did."""
    target = path if wanted else Path(os.devnull)
    return open_files.enter_context(target.open("a", encoding="utf-8", buffering=1))


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _count_skips(run: Run, *, finite: bool) -> None:
    run.skipped_in_row = 0 if finite else run.skipped_in_row + 1
    if run.skipped_in_row >= MAX_SKIPPED_IN_ROW:
        raise TrainingDiverged(
            f"the loss was not finite for {MAX_SKIPPED_IN_ROW} steps in a row, up to step {run.step}; the last good "
            "checkpoint is kept. Lower optimizer.learning_rate or look at the data of these steps"
        )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
