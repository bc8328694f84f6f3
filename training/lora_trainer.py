"""Stage `train`: one LoRA adapter or, with tune=full, a whole model, by the loop of loop.py."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.choices import Tune, Weights
from configs.slices import TrainSlice
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.contract import StageContext
from training.action_figures import ActionReader
from training.action_tokenizer import FastTokenizer
from training.base_folder import BaseFolder, locate_base
from training.card import AdapterCard, package_versions
from training.checkpoint import METRICS_FILE
from training.dataset import TrainingData
from training.flow_figures import FlowReader
from training.layout import role_weights
from training.loop import fit
from training.lora_model import (
    IMAGE_FRAME,
    Companions,
    add_action_tokens,
    add_flow_tokens,
    attach_lora,
    bare,
    load_base,
    make_layout,
    save_adapter,
    tokenizer_digest,
)
from training.quick_dropout import quicken_dropout
from training.run import Run, make_accelerator, set_threads
from training.run_log import TENSORBOARD_FOLDER
from training.sampling import SamplingPlan, StepInputs
from training.timing import TIMING_FILE
from training.train_inputs import codes_per_step, find_actions, load_data, num_flow_codes
from training.validation import Instruments, Validation
from training.warm_base import WARM_BASE
from training.whole_model import save_whole, tune_in_full

CHECKPOINT_FOLDER = "checkpoint-final"


def run_train(config: TrainSlice, context: StageContext, instruments: Instruments) -> list[str]:
    """Stage `train`: one checkpoint. Inputs regenerate, split, stats, and annotate, tokens, base where needed.

    instruments: what its figures need beside the model. Of several processes each calls this; see processes.py.
    """
    accelerator = make_accelerator(config.trainer, config.mixed_precision)
    set_threads(config.trainer)
    base = locate_base(config.model.base, config.model.revision, _tiny_base(context.inputs))
    statistics = ActionStatistics.load(context.inputs.get("stats", base.path) / STATISTICS_FILE)
    data, held_out = load_data(config, context, statistics, accelerator.process_index)
    actions = find_actions(config, base, data, statistics)
    num_flow = num_flow_codes(config, data)
    half = config.mixed_precision == "bf16" and accelerator.device.type == "cuda"
    stored = torch.bfloat16 if half else torch.float32  # weights that do not train, and whole models on the disk
    in_full = config.tune is Tune.FULL
    WARM_BASE.release()  # an evaluation's, if this process had one: training needs the memory
    loaded_as = torch.float32 if in_full else stored
    model, tokenizer = load_base(base.path, loaded_as, config.lora.base_bits, str(accelerator.device))
    new_tokens = [
        *add_action_tokens(model, tokenizer, actions.num_codes, config.seed),
        *add_flow_tokens(model, tokenizer, num_flow, config.seed),
    ]
    tuned = tune_in_full(model) if in_full else attach_lora(model, config.lora, base.name, new_tokens, config.seed)
    tuned.to(accelerator.device)
    if accelerator.device.type == "cpu":
        quicken_dropout(tuned)
    if config.trainer.gradient_checkpointing:
        inner: Any = bare(tuned).model
        inner.language_model.activation_checkpointing_enable({"use_reentrant": False})
    layout = make_layout(
        config.phase, tokenizer, actions, num_flow, config.model.image_size, config.model.system_prompt
    )
    plan = SamplingPlan(
        seed=config.seed,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        reasoning_dropout_prob=config.reasoning_dropout_prob,
        variant=config.dropout_variant,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    reader = FlowReader(layout.vocabulary, codes_per_step(data), instruments.decode) if num_flow else None
    run = Run(
        model=bare(tuned),
        inputs=StepInputs(data, layout, plan, config.steps),
        role_weights=role_weights(config.phase),
        schedule=config.optimizer,
        steps=config.steps,
        seed=config.seed,
        accelerator=accelerator,
        sharded=config.trainer.shard,
        name=f"{config.phase.name}/{config.subset.value}",
        actions=ActionReader(layout.vocabulary, actions, statistics),
        flow=reader,
        validation=Validation(
            data=held_out,
            layout=layout,
            config=config.validation,
            rows=config.batch_size,
            seed=config.seed,
            actions=actions,
            act=instruments.actor(tuned, tokenizer, actions, layout),
            flow=reader,
        )
        if len(held_out) and accelerator.is_main_process
        else None,
    )
    card = _card(config, base, num_flow, data, actions, tokenizer_digest(tokenizer), statistics)

    def keep(step: int, name: str = "") -> None:
        folder = context.work / (name or f"checkpoint-{step}")
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        companions = Companions(tokenizer, actions, statistics, replace(card, steps=step))
        if in_full:
            save_whole(folder, tuned, stored, base.path, companions)
        else:
            save_adapter(folder, tuned, companions)

    fit(run, config.trainer, context, keep)
    if accelerator.is_main_process or run.sharded:
        keep(config.steps, CHECKPOINT_FOLDER)
    every = config.trainer.keep_every or config.steps
    drawn = [TENSORBOARD_FOLDER] if "tensorboard" in config.trainer.log else []
    kept = [f"checkpoint-{step}" for step in range(every, config.steps, every)]
    return [CHECKPOINT_FOLDER, METRICS_FILE, TIMING_FILE, *kept, *drawn]


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
        image_frame=IMAGE_FRAME,
        system_prompt=config.model.system_prompt,
        num_flow_codes=num_flow,
        flow_tokenizer=digests[0] if digests else "",
        action_tokenizer=actions.digest,
        text_tokenizer=text_digest,
        statistics=statistics.dataset,
        steps=config.steps,
        versions=package_versions(),
        weights=Weights.FULL if config.tune is Tune.FULL else Weights.ADAPTER,
        base_bits=config.lora.base_bits,
    )
