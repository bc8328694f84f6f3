"""Stage `base`: the tiny backbone with its tokenizers, trained in full on the training demonstrations of all subsets.

The twelve adapters start from it: LoRA on a random base cannot learn. Same loop, same resume as the adapters.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain

import torch

from configs.schema import BaseSlice, OptimizerConfig, PhaseSpec, Role, Segment, Subset, check
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.contract import Episode, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from training import action_tokenizer
from training.dataset import ACTION, SamplingPlan, StepInputs, TrainingData, load_training_data
from training.layout import render_reasoning, role_weights
from training.lora_model import ACTION_TOKENIZER_FILE, TINY, make_layout
from training.lora_trainer import METRICS_FILE, Run, fit, pick_device, set_threads
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base
from training.train_inputs import chunks

BASE_FOLDER = "base"
ACTION_ONLY = PhaseSpec("base", (Segment(Role.ACTION, ACTION),))
WEIGHT_DECAY = 0.01


def run_base(config: BaseSlice, context: StageContext) -> list[str]:
    """Inputs regenerate/<s>, split/<s>, stats/<s>, annotate/<s> for each subset s."""
    check(config.model.base == TINY, f"model.base={config.model.base!r} is not trained here; only {TINY!r} is")
    set_threads(config.trainer)
    data = _load_data(config, context)
    actions = action_tokenizer.fit(chunks(data), config.action.horizon, config.action.scale, config.action.codes)
    corpus = [e.instruction for e in data.episodes] + list(_annotator_texts(config, context))
    tokenizer = build_tokenizer(corpus, config.model.text_vocab, config.action.codes)
    device = pick_device(config.trainer.device)
    model = build_model(build_config(tokenizer, config.model), config.base.seed).to(device)
    layout = make_layout(ACTION_ONLY, tokenizer, actions, 0, config.model.image_size, config.model.system_prompt)
    plan = SamplingPlan(config.base.seed, config.base.batch_size, 1, 1.0, config.base.shift_px)
    run = Run(
        model=model,
        inputs=StepInputs(data, layout, plan, config.base.steps),
        role_weights=role_weights(ACTION_ONLY),
        schedule=OptimizerConfig(
            learning_rate=config.base.learning_rate,
            warmup_steps=config.base.warmup_steps,
            weight_decay=WEIGHT_DECAY,
        ),
        steps=config.base.steps,
        seed=config.base.seed,
        device=device,
        autocast=None,
    )
    fit(run, config.trainer, context)
    folder = context.work / BASE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_base(folder, model.to(torch.device("cpu")), tokenizer, config.model)
    actions.save(folder / ACTION_TOKENIZER_FILE)
    return [BASE_FOLDER, METRICS_FILE]


def _load_data(config: BaseSlice, context: StageContext) -> TrainingData:
    """All subsets' training episodes, each normalised with its own statistics."""
    inputs, names = context.inputs, {s: s.value for s in config.subsets}
    sources = {s: Hdf5Source(inputs[f"regenerate/{name}"], s) for s, name in names.items()}
    statistics = {s: ActionStatistics.load(inputs[f"stats/{name}"] / STATISTICS_FILE) for s, name in names.items()}

    def training(subset: Subset) -> Iterator[Episode]:
        split = load_split(inputs[f"split/{names[subset]}"] / SPLIT_FILE)
        return (sources[subset].open(episode) for episode in split.train)

    episodes = chain.from_iterable(training(subset) for subset in config.subsets)
    overflow = context.work / "frames.npy"
    data = load_training_data(episodes, statistics, config.action.horizon, config.model.image_size, overflow)
    for source in sources.values():
        source.close()
    return data


def _annotator_texts(config: BaseSlice, context: StageContext) -> Iterator[str]:
    """What the annotator wrote about training episodes, for the text vocabulary; every fourth step is enough."""
    for subset in config.subsets:
        folder = context.inputs.get(f"annotate/{subset.value}")
        if folder is None:
            continue
        annotations = load_annotations(folder / "annotations.json")
        for episode in load_split(context.inputs[f"split/{subset.value}"] / SPLIT_FILE).train:
            yield from (render_reasoning(step) for step in annotations[episode].steps[::4])
