"""Stage `base`: the tiny backbone with its tokenizers, trained in full on the training demonstrations of all subsets.

The twelve adapters start from it: LoRA on a random base cannot learn. Two things stand for what a published base
brings along: it acts (image and instruction -> action, most often without reasoning), and it knows the annotator's
language. For that, some steps have chains of thought to write before a grey image, so that nothing about a scene can be
learned from them, and as many to act after, of which only the actions are targets. One scale
of actions and one action tokenizer serve all subsets; both lie in the folder, and the adapters on it use them. Same
loop, same resume as the adapters.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from configs.checks import check
from configs.choices import Role
from configs.model import BaseConfig, OptimizerConfig
from configs.phases import PhaseSpec, Segment
from configs.slices import BaseSlice
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics, pooled_statistics
from data_pipeline.contract import Episode, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from training.action_tokenizer import ACTION_TOKENIZER_FILE
from training.base_folder import SCRATCH
from training.batch import collate
from training.checkpoint import METRICS_FILE
from training.dataset import ACTION, REASONING, TrainingData, load_training_data
from training.layout import Layout, flatten, role_weights, spans
from training.loop import fit
from training.lora_model import make_layout
from training.reasoning_text import render_reasoning
from training.run import Run, make_accelerator, set_threads
from training.sampling import SamplingPlan, StepInput, StepInputs, numbers_of_step, role_totals
from training.shipped_base import BASE_FOLDER, BASE_STATISTICS
from training.timing import TIMING_FILE
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base
from training.train_inputs import make_actions

LANGUAGE = PhaseSpec("base", (Segment(Role.TEXT, REASONING, 0.5), Segment(Role.ACTION, ACTION)))
NO_REASONING = 1.0  # as a dropout probability
WEIGHT_DECAY = 0.01
GREY = 128


def run_base(config: BaseSlice, context: StageContext) -> list[str]:
    """Inputs regenerate/<s>, split/<s>, annotate/<s> for each subset s."""
    check(config.model.base == SCRATCH, f"model.base={config.model.base!r} is not trained here; only {SCRATCH!r} is")
    check(config.action.tokenizer == "fit", f"action.tokenizer={config.action.tokenizer!r}; allowed with scratch: fit")
    set_threads(config.trainer)
    statistics, data = _load_data(config, context)
    actions = make_actions(config.action, (e.actions for e in data.episodes), statistics.largest)
    tokenizer = build_tokenizer(_corpus(data), config.model.text_vocab, config.action.codes)
    accelerator = make_accelerator(config.trainer, "no")
    model: Any = build_model(build_config(tokenizer, config.model), config.base.seed)
    model.to(accelerator.device)
    layout = make_layout(LANGUAGE, tokenizer, actions, 0, config.model.image_size, config.model.system_prompt)
    run = Run(
        model=model,
        inputs=BaseInputs(data, layout, config.base),
        role_weights=role_weights(LANGUAGE),
        schedule=OptimizerConfig(
            learning_rate=config.base.learning_rate,
            warmup_steps=config.base.warmup_steps,
            weight_decay=WEIGHT_DECAY,
        ),
        steps=config.base.steps,
        seed=config.base.seed,
        accelerator=accelerator,
    )
    fit(run, config.trainer, context)
    folder = context.work / BASE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_base(folder, model.to(torch.device("cpu")), tokenizer, config.model)
    actions.save(folder / ACTION_TOKENIZER_FILE)
    statistics.save(folder / STATISTICS_FILE)
    return [BASE_FOLDER, METRICS_FILE, TIMING_FILE]


def _load_data(config: BaseSlice, context: StageContext) -> tuple[ActionStatistics, TrainingData]:
    """All subsets' training episodes, normalised with the statistics of all of them together."""
    inputs, names = context.inputs, {s: s.value for s in config.subsets}
    sources = {s: Hdf5Source(inputs[f"regenerate/{name}"], s) for s, name in names.items()}
    splits = {s: load_split(inputs[f"split/{name}"] / SPLIT_FILE) for s, name in names.items()}

    def training() -> Iterator[Episode]:
        return (sources[subset].open(episode) for subset in config.subsets for episode in splits[subset].train)

    action = config.action
    statistics = pooled_statistics(BASE_STATISTICS, training(), action.half_range_floor, action.normalization)
    overflow = context.work / "frames.npy"
    annotations = {
        episode: annotation
        for name in names.values()
        for episode, annotation in load_annotations(inputs[f"annotate/{name}"] / "annotations.json").items()
    }
    size = config.model.image_size
    each = dict.fromkeys(config.subsets, statistics)
    data = load_training_data(training(), each, action.horizon, size, overflow, annotations)
    for source in sources.values():
        source.close()
    return statistics, data


def _corpus(data: TrainingData) -> Iterator[str]:
    """What the text vocabulary is fitted on: instructions, and every fourth chain of thought."""
    for episode in data.episodes:
        yield episode.instruction
        if episode.annotation is not None:
            yield from (render_reasoning(step) for step in episode.annotation.steps[::4] if step)


class BaseInputs(Dataset[StepInput]):
    """Item `step`: a batch of actions; every `language_every` steps also one of chains of thought."""

    def __init__(self, data: TrainingData, layout: Layout, base: BaseConfig) -> None:
        self._data, self._layout, self._base = data, layout, base
        plan = SamplingPlan(base.seed, base.batch_size, 1, NO_REASONING, base.shift_px)
        self._acting = StepInputs(data, layout, plan, base.steps)

    def __len__(self) -> int:
        return self._base.steps

    def __getitem__(self, step: int) -> StepInput:
        acting = self._acting[step]
        if step % self._base.language_every:
            return acting
        chosen = numbers_of_step(
            step // self._base.language_every, self._base.seed + 1, self._base.language_batch, len(self._data)
        )
        samples = [self._data.sample(number) for _, number in chosen]
        written = [spans(self._layout, sample) for sample in samples]
        thoughts = [flatten(parts[:2]) for parts in written]
        acts = [flatten((*(replace(part, role=Role.PROMPT) for part in parts[:-1]), parts[-1])) for parts in written]
        images = np.stack([np.full_like(samples[0].image, GREY)] * len(samples) + [s.image for s in samples])
        extra = role_totals([*thoughts, *acts])
        totals = {role: acting.totals.get(role, 0.0) + extra.get(role, 0.0) for role in {*acting.totals, *extra}}
        return StepInput((*acting.batches, collate([*thoughts, *acts], images, self._layout)), totals)
