"""The one training loop, for every phase and for the tiny base: fit / train_step.

What a step does depends on (seed, step) and the weights alone, so (k steps, kill, resume) gives the same losses, bit
for bit on the CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from configs.choices import Role
from configs.schema import OptimizerConfig, TrainerConfig
from data_pipeline.contract import StageContext
from training.batch import Batch
from training.checkpoint import METRICS_FILE, restore, save
from training.flow_figures import FlowCodes
from training.layout import ROLES
from training.loss import TokenLosses, role_shares, token_losses, weighted_sum
from training.run import Run
from training.sampling import StepInput
from training.validation import Validation

MAX_SKIPPED_IN_ROW = 10


class TrainingDiverged(RuntimeError):
    """The loss was not finite for MAX_SKIPPED_IN_ROW steps in a row."""


def fit(run: Run, trainer: TrainerConfig, context: StageContext) -> None:
    """Train to the last step, resuming what `context.work` holds. Raises Interrupted after saving."""
    restore(run, context.work)
    run.model.train()
    metrics = context.work / METRICS_FILE
    begun, first = time.monotonic(), run.step
    with metrics.open("a", encoding="utf-8") as log:
        for step_input in stream(run, trainer.num_workers):
            row = train_step(run, step_input)
            if run.validation is not None and run.validation.is_due(run.step, run.steps):
                row |= validate(run, run.validation)
            log.write(json.dumps(row) + "\n")
            log.flush()
            if run.step % trainer.log_every == 0 or run.step == run.steps:
                speed = (run.step - first) / (time.monotonic() - begun)
                loss = "no finite loss" if row["loss"] is None else f"loss {row['loss']:.3f}"
                context.report(run.step, run.steps, f"{loss} at {speed:.2f} steps/s")
            if run.step % trainer.checkpoint_every == 0 or context.stop_requested():
                save(run, context.work)
                context.checkpoint()


def train_step(run: Run, step_input: StepInput) -> dict[str, Any]:
    """One optimiser step over one global batch. Returns its row of metrics.jsonl."""
    torch.manual_seed(_step_seed(run.seed, run.step))
    rate = learning_rate(run.schedule, run.step, run.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad(set_to_none=True)
    means, figures = _backward(run, step_input)
    norm = run.accelerator.clip_grad_norm_(list(run.parameters.values()), run.schedule.max_grad_norm or math.inf)
    assert norm is not None
    loss = sum(run.role_weights[role] * mean for role, mean in means.items())
    finite = math.isfinite(loss) and math.isfinite(float(norm))
    if finite:
        run.optimizer.step()
    run.step += 1
    _count_skips(run, finite=finite)
    row: dict[str, Any] = {"step": run.step, "loss": _number(loss), "lr": rate, "grad_norm": _number(float(norm))}
    row |= {f"loss_{role.value}": _number(means.get(role, math.nan)) for role in ROLES if role in run.role_weights}
    return row | figures | {"skipped": not finite}


def validate(run: Run, validation: Validation) -> dict[str, float | None]:
    """Figures of held-out steps; leaves the run as it was."""
    run.model.eval()
    with torch.no_grad():
        found = validation.measure(partial(_forward, run))
    run.model.train()
    return {name: _number(value) for name, value in found.items()}


def _forward(run: Run, batch: Batch) -> TokenLosses:
    with run.accelerator.autocast():
        return token_losses(run.network, batch.to(run.accelerator.device))


def _backward(run: Run, step_input: StepInput) -> tuple[dict[Role, float], dict[str, float]]:
    """Accumulate the gradient over the pieces; returns each role's mean loss, and accuracies of actions and flow."""
    means: dict[Role, float] = dict.fromkeys(step_input.totals, 0.0)
    codes = list[FlowCodes]()
    right = seen = 0
    for batch in step_input.batches:
        tokens = _forward(run, batch)
        shares = role_shares(tokens, step_input.totals)
        run.accelerator.backward(weighted_sum(shares, run.role_weights))
        for role, share in shares.items():
            means[role] += share.item()
        acting = tokens.roles == ROLES.index(Role.ACTION)
        right, seen = right + int(tokens.correct[acting].sum()), seen + int(acting.sum())
        if run.flow is not None:
            codes.append(run.flow.read(tokens))
    return means, {"action_accuracy": right / seen, **(run.flow.figures(codes) if run.flow is not None else {})}


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
        generator=torch.Generator(),  # its own: the global one belongs to the step
    )
    return iter(loader)


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
