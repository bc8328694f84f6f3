"""What bench_train.py measures on: a model of one of two shapes with random weights, synthetic demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from configs.model import LoraConfig, ModelConfig, OptimizerConfig, TrainerConfig
from configs.phases import PhaseSpec
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from tests.helpers.tiny_adapter import BASELINE, FLOW_CODES, TEXT_COT, TEXT_FLOW_COT, smooth_chunks
from tests.helpers.training_study import ACTIONS, write_study
from training import action_tokenizer
from training.dataset import TrainingData
from training.layout import Layout, role_weights
from training.lora_model import attach_lora, make_layout
from training.quick_dropout import quicken_dropout
from training.reasoning_text import render_reasoning
from training.run import Run, make_accelerator
from training.sampling import SamplingPlan, StepInputs
from training.tiny_backbone import add_numbered_tokens, build_config, build_processor, build_tokenizer
from training.train_inputs import load_data

PHASES = {"A": BASELINE, "B": TEXT_COT, "C": TEXT_FLOW_COT}
DROPOUT_PROB = 0.5  # of the reasoning
SEED = 42
ROWS_OF_NORA = 153_728


@dataclass(frozen=True)
class Shape:
    """A backbone's sizes: those of ModelConfig, and what ModelConfig derives otherwise (0: derived)."""

    model: ModelConfig
    codes: int  # of the action tokenizer
    rows: int = 0  # of the embedding
    feed_forward: int = 0
    vision_feed_forward: int = 0
    everywhere: tuple[int, ...] = ()  # vision layers that attend beyond their window

    def config(self, tokenizer: Any) -> Qwen2_5_VLConfig:
        """In the library's terms."""
        config = build_config(tokenizer, self.model)
        text: Any = config.text_config
        vision: Any = config.vision_config
        text.vocab_size = max(self.rows, text.vocab_size)
        text.intermediate_size = self.feed_forward or text.intermediate_size
        vision.intermediate_size = self.vision_feed_forward or vision.intermediate_size
        vision.fullatt_block_indexes = list(self.everywhere) or vision.fullatt_block_indexes
        return config


TINY = Shape(ModelConfig(base="tiny", image_size=112, system_prompt=False, flow_rows=32), codes=256)
NORA_3B = Shape(
    ModelConfig(
        base="tiny",
        image_size=224,
        hidden=2048,
        layers=36,
        heads=16,
        kv_heads=2,
        vision_hidden=1280,
        vision_layers=32,
        vision_heads=16,
    ),
    codes=2048,
    rows=ROWS_OF_NORA,
    feed_forward=11008,
    vision_feed_forward=3420,
    everywhere=(7, 15, 23, 31),
)
SHRUNK = replace(
    NORA_3B,
    model=replace(
        NORA_3B.model,
        hidden=128,
        layers=2,
        heads=4,
        vision_hidden=80,
        vision_layers=2,
        vision_heads=2,
    ),
    rows=8192,
    feed_forward=320,
    vision_feed_forward=128,
    everywhere=(1,),
)
SHAPES = {"tiny": TINY, "nora_3b": NORA_3B, "nora_3b_shrunk": SHRUNK}


@dataclass(frozen=True)
class Setting:
    """What both trainers share."""

    shape: Shape
    batch_size: int
    steps: int  # that may be asked for
    trainer: TrainerConfig
    mixed_precision: str
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, warmup_steps=1)


@dataclass(frozen=True)
class Subject:
    """Data and tokenizers of one phase, models on demand."""

    setting: Setting
    data: TrainingData
    layout: Layout
    tokenizer: Any
    new_tokens: tuple[int, ...]
    config: Qwen2_5_VLConfig

    @property
    def plan(self) -> SamplingPlan:
        """Both trainers draw the same samples."""
        return SamplingPlan(SEED, self.setting.batch_size, 1, DROPOUT_PROB if self.layout.phase.sources else 1.0)

    def inputs(self, batch_size: int = 0) -> StepInputs:
        """Of our loop. batch_size: another than the setting's."""
        plan = replace(self.plan, batch_size=batch_size or self.plan.batch_size)
        return StepInputs(self.data, self.layout, plan, self.setting.steps)

    def processor(self) -> Any:
        """Of the reference."""
        return build_processor(self.tokenizer, self.setting.shape.model)

    def adapted(self) -> Any:
        """A fresh PeftModel; every call gives the same weights."""
        accelerator = make_accelerator(self.setting.trainer, self.setting.mixed_precision)
        torch.manual_seed(SEED)
        dtype = torch.bfloat16 if self.setting.mixed_precision == "bf16" else torch.float32
        place: Any = accelerator.device
        with place:
            plain: Any = Qwen2_5_VLForConditionalGeneration
            model = plain._from_config(self.config, dtype=dtype)
        return attach_lora(model, self.setting.lora, "random", self.new_tokens, SEED).to(accelerator.device)

    def run(self) -> Run:
        """Our loop on a fresh model."""
        adapted = self.adapted()
        accelerator = make_accelerator(self.setting.trainer, self.setting.mixed_precision)
        if accelerator.device.type == "cpu":
            quicken_dropout(adapted)
        return Run(
            model=adapted.get_base_model().train(),
            inputs=self.inputs(),
            role_weights=role_weights(self.layout.phase),
            schedule=self.setting.optimizer,
            steps=self.setting.steps,
            seed=SEED,
            accelerator=accelerator,
        )


def make_subject(folder: Path, setting: Setting, phase: PhaseSpec) -> Subject:
    """Write synthetic demonstrations of two tasks below `folder` and read them as the stage `train` does."""
    model = setting.shape.model
    folder.mkdir(exist_ok=True)
    study = write_study(folder, demos=8, steps=60, size=128)
    statistics = ActionStatistics.load(study.inputs["stats"] / STATISTICS_FILE)
    wanted = study.train_slice(phase, model=model)
    data, _ = load_data(wanted, study.context(phase.name), statistics)
    horizon = ACTIONS.horizon
    actions = action_tokenizer.fit(smooth_chunks(3000, horizon), horizon, ACTIONS.scale, setting.shape.codes)
    tokenizer: Any = build_tokenizer(_corpus(data), model.text_vocab, actions.num_codes)
    flows = FLOW_CODES if phase is TEXT_FLOW_COT else 0
    config = setting.shape.config(tokenizer)
    new = range(len(tokenizer), len(tokenizer) + flows)  # there are spare rows: nothing has to grow
    add_numbered_tokens(tokenizer, "<flow_{}>", flows)
    layout = make_layout(phase, tokenizer, actions, flows, model.image_size, model.system_prompt)
    return Subject(setting, data, layout, tokenizer, tuple(new), config)


def _corpus(data: TrainingData) -> list[str]:
    told = [step for e in data.episodes if e.annotation is not None for step in e.annotation.steps]
    return [*(e.instruction for e in data.episodes), *(render_reasoning(step) for step in told if step)]
