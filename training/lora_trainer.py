"""The one training loop, for every phase and for the tiny base: fit / train_step / save / restore; stage `train`.

What a step does depends on (seed, step) and the weights alone, so (k steps, kill, resume) gives the same losses, bit
for bit on the CPU. Unfinished runs live in ``<work>/resume/step-000020``: weights, optimiser, step, written aside and
renamed; ``metrics.jsonl`` is cut back to the step that is resumed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from configs.choices import Role
from configs.schema import OptimizerConfig, TrainerConfig, check
from configs.slices import TrainSlice
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.contract import StageContext
from training.action_tokenizer import FastTokenizer
from training.base_folder import BaseFolder, locate_base
from training.batch import Batch
from training.card import AdapterCard, package_versions
from training.dataset import TrainingData
from training.flow_figures import FlowCodes, FlowReader
from training.layout import ROLES, role_weights
from training.lora_model import (
    add_flow_tokens,
    attach_lora,
    load_base,
    make_layout,
    save_adapter,
    tokenizer_digest,
)
from training.loss import TokenLosses, role_shares, token_losses, weighted_sum
from training.network import Network
from training.quick_dropout import quicken_dropout
from training.sampling import SamplingPlan, StepInput, StepInputs
from training.train_inputs import codes_per_step, find_actions, load_data, num_flow_codes
from training.validation import Instruments, Validation
from training.warm_base import WARM_BASE

METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoint-final"
RESUME_FOLDER = "resume"
MAX_SKIPPED_IN_ROW = 10


class TrainingDiverged(RuntimeError):
    """The loss was not finite for MAX_SKIPPED_IN_ROW steps in a row."""


@dataclass
class Run:
    """A training run: what is fixed, and where it stands."""

    model: nn.Module  # bare Qwen2.5-VL; its trainable parameters are those of the run
    inputs: Dataset[StepInput]  # item `step` is that step's input
    role_weights: Mapping[Role, float]
    schedule: OptimizerConfig
    steps: int
    seed: int
    accelerator: Accelerator  # device and precision
    flow: FlowReader | None = None  # of a phase with flow
    validation: Validation | None = None
    step: int = 0  # steps done
    skipped_in_row: int = 0
    network: Network = field(init=False)
    parameters: dict[str, nn.Parameter] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.network = Network(self.model)
        self.parameters = {n: p for n, p in sorted(self.model.named_parameters()) if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.schedule.learning_rate,
            betas=self.schedule.betas,
            weight_decay=self.schedule.weight_decay,
            fused=True,
        )


# ------------------------------------------------------------------ the loop


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


# ------------------------------------------------------------------ exact resume


def save(run: Run, work: Path) -> None:
    """Write everything the next step depends on, aside, then rename; older ones are removed after."""
    folder = work / RESUME_FOLDER
    target, temporary = folder / f"step-{run.step:06d}", folder / f"tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in run.parameters.items()}
    save_file(weights, temporary / "weights.safetensors")
    torch.save(run.optimizer.state_dict(), temporary / "optimizer.pt")
    state = {"step": run.step, "skipped_in_row": run.skipped_in_row, "parameters": len(weights)}
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for file in temporary.iterdir():  # on the disk before it replaces the older one
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in folder.iterdir():
        if old != target:
            shutil.rmtree(old)


def restore(run: Run, work: Path) -> None:
    """Take up the newest checkpoint of `work`, if any, and cut metrics.jsonl back to it."""
    found = sorted((work / RESUME_FOLDER).glob("step-*"))
    if found:
        state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        weights = load_file(found[-1] / "weights.safetensors")
        assert weights.keys() == run.parameters.keys(), "this checkpoint belongs to another model"
        with torch.no_grad():
            for name, parameter in run.parameters.items():
                parameter.copy_(weights[name])
        optimizer = torch.load(found[-1] / "optimizer.pt", map_location=run.accelerator.device, weights_only=True)
        run.optimizer.load_state_dict(optimizer)
        run.step, run.skipped_in_row = state["step"], state["skipped_in_row"]
    _cut_metrics(work / METRICS_FILE, run.step)


def _cut_metrics(path: Path, steps: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()[:steps] if path.exists() else []
    assert len(lines) == steps, f"{path} has {len(lines)} rows, the checkpoint {steps} steps"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)


# ------------------------------------------------------------------ stage `train`


def run_train(config: TrainSlice, context: StageContext, instruments: Instruments) -> list[str]:
    """Stage `train`: one LoRA adapter. Inputs regenerate, split, stats, and annotate, tokens, base where needed.

    instruments: what its figures need beside the model.
    """
    set_threads(config.trainer)
    base = locate_base(config.model.base, config.model.revision, _tiny_base(context.inputs))
    statistics = ActionStatistics.load(context.inputs.get("stats", base.path) / STATISTICS_FILE)
    data, held_out = load_data(config, context, statistics)
    actions = find_actions(config, base, data, statistics)
    num_flow = num_flow_codes(config, data)
    accelerator = make_accelerator(config.trainer, config.mixed_precision)
    half = config.mixed_precision == "bf16" and accelerator.device.type == "cuda"
    frozen = torch.bfloat16 if half else torch.float32
    WARM_BASE.release()  # an evaluation's, if this process had one: training needs the memory
    model, tokenizer = load_base(base.path, frozen)
    new_tokens = add_flow_tokens(model, tokenizer, num_flow, config.seed)
    adapted = attach_lora(model, config.lora, base.name, new_tokens, config.seed).to(accelerator.device)
    if accelerator.device.type == "cpu":
        quicken_dropout(adapted)
    layout = make_layout(
        config.phase, tokenizer, actions, num_flow, config.model.image_size, config.model.system_prompt
    )
    plan = SamplingPlan(
        seed=config.seed,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        reasoning_dropout_prob=config.reasoning_dropout_prob,
        variant=config.dropout_variant,
    )
    reader = FlowReader(layout.vocabulary, codes_per_step(data), instruments.decode) if num_flow else None
    run = Run(
        model=adapted.get_base_model(),
        inputs=StepInputs(data, layout, plan, config.steps),
        role_weights=role_weights(config.phase),
        schedule=config.optimizer,
        steps=config.steps,
        seed=config.seed,
        accelerator=accelerator,
        flow=reader,
        validation=Validation(
            data=held_out,
            layout=layout,
            config=config.validation,
            batch_size=config.batch_size,
            seed=config.seed,
            actions=actions,
            act=instruments.actor(adapted, tokenizer, actions, layout, config.batch_size),
            flow=reader,
        )
        if len(held_out)
        else None,
    )
    fit(run, config.trainer, context)
    folder = context.work / CHECKPOINT_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    card = _card(config, base, num_flow, data, actions, tokenizer_digest(tokenizer), statistics)
    save_adapter(folder, adapted, tokenizer, actions, statistics, card)
    return [CHECKPOINT_FOLDER, METRICS_FILE]


def set_threads(trainer: TrainerConfig) -> None:
    """Fix the number of threads, as sums on the CPU depend on it."""
    if trainer.torch_threads:
        torch.set_num_threads(trainer.torch_threads)


def make_accelerator(trainer: TrainerConfig, mixed_precision: str) -> Accelerator:
    """Device (`auto` is CUDA where there is one) and precision (`bf16`, `no`) of one run."""
    check(
        trainer.device in ("auto", "cpu") or torch.cuda.is_available(),
        f"trainer.device={trainer.device!r}, but this machine has no CUDA device; allowed here: auto, cpu",
    )
    # Accelerate keeps one state per process, and a warm worker trains runs of several precisions.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    return Accelerator(mixed_precision=mixed_precision, cpu=trainer.device == "cpu")


def _tiny_base(inputs: Mapping[str, Path]) -> Path | None:
    return inputs["base"] / "base" if "base" in inputs else None


def _card(
    config: TrainSlice,
    base: BaseFolder,
    num_flow: int,
    data: TrainingData,
    actions: FastTokenizer,
    text_digest: str,
    statistics: ActionStatistics,
) -> AdapterCard:
    digests: Sequence[str] = [e.flow.tokenizer_digest for e in data.episodes if e.flow is not None]
    return AdapterCard(
        base=base.name,
        base_digest=base.digest,
        phase=config.phase,
        subset=config.subset,
        horizon=config.action.horizon,
        image_size=config.model.image_size,
        image_frame="rot180",
        system_prompt=config.model.system_prompt,
        num_flow_codes=num_flow,
        flow_tokenizer=digests[0] if digests else "",
        action_tokenizer=actions.digest,
        text_tokenizer=text_digest,
        statistics=statistics.dataset,
        steps=config.steps,
        versions=package_versions(),
    )
