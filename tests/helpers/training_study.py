"""A study small enough for tests: synthetic demonstrations, sidecars, a base, and the slices of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from configs.choices import Subset
from configs.model import ActionConfig, BaseConfig, LoraConfig, ModelConfig, OptimizerConfig, TrainerConfig
from configs.phases import PhaseSpec
from configs.slices import BaseSlice, TrainSlice
from data_pipeline.contract import Annotation, BoundingBox, Episode, FlowTokens, StageContext, StepReasoning
from data_pipeline.flow_tokens import FLOW_TOKENS_JSON, made_of, save_flow_tokens
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import save_annotations
from experiment.training import run_train
from flow_pipeline.grid_tokenizer import GridTokenizer
from flow_pipeline.vq_encoder import TOKENIZER_FILE, save_tokenizer
from tests.helpers.synthetic import write_split_and_stats, write_synthetic_subset
from tests.helpers.tiny_adapter import BASELINE, FLOW_CODES, HORIZON, SMALL, write_tiny_base
from training.base_folder import SCRATCH

ACTIONS = ActionConfig(tokenizer="fit", horizon=HORIZON, execute=4, scale=5.0, codes=256, half_range_floor=0.3)
TRAINER = TrainerConfig(torch_threads=1, num_workers=0, device="cpu", log_every=1, checkpoint_every=2)


def step_reasoning(instruction: str, step: int) -> StepReasoning:
    """A chain of thought that depends on the step."""
    x = (7 * step) % 200
    return StepReasoning(
        task=instruction,
        plan="reach the soup, grasp it, lift it, place it in the basket",
        visible_objects=(BoundingBox("alphabet soup", x, 40, x + 20, 80), BoundingBox("basket", 120, 90, 180, 160)),
        subtask_reasoning=f"the gripper is {step % 9} cm left of the soup",
        subtask="reach the soup",
        move_reasoning="the soup is to the right and below",
        move="move right and down" if step % 2 else "close the gripper",
        gripper=tuple((x + 4 * i, 100) for i in range(5)),
    )


def annotate(episode: Episode) -> Annotation:
    """Reasoning for every step."""
    steps = tuple(step_reasoning(episode.instruction, t) for t in range(episode.num_steps))
    return Annotation(episode.id, steps, {"task": "rules"})


def flow_of(episode: Episode, cells: int = 16) -> FlowTokens:
    """Random codes for every step, horizon HORIZON."""
    steps = episode.num_steps
    rng = np.random.default_rng((episode.id.task_id, episode.id.demo))
    return FlowTokens(
        episode=episode.id,
        codes=rng.integers(0, FLOW_CODES, (steps, cells)).astype(np.uint16),
        k_effective=np.minimum(HORIZON, steps - 1 - np.arange(steps)).astype(np.uint16),
        k=HORIZON,
        num_codes=FLOW_CODES,
        tokenizer_digest="synthetic",
    )


@dataclass(frozen=True)
class Study:
    """Input folders of the stages, for one subset."""

    folder: Path
    subset: Subset
    inputs: Mapping[str, Path]
    model: ModelConfig = field(default=SMALL)

    def train_slice(self, phase: PhaseSpec = BASELINE, **changes: object) -> TrainSlice:
        """A train stage of a few steps; changes: fields of TrainSlice."""
        values: dict[str, object] = {
            "subset": self.subset,
            "phase": phase,
            "reasoning_dropout_prob": 0.5,
            "lora": LoraConfig(rank=4, alpha=8, dropout=0.05),
            "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
            "model": self.model,
            "action": ACTIONS,
            "trainer": TRAINER,
            "batch_size": 4,
            "accumulation": 1,
            "steps": 3,
            "mixed_precision": "no",
            "seed": 42,
        }
        return TrainSlice(**(values | changes))  # pyright: ignore[reportArgumentType]

    def context(self, name: str, **changes: object) -> StageContext:
        """A context with a work folder of its own."""
        work = self.folder / "work" / name
        work.mkdir(parents=True, exist_ok=True)
        return StageContext(work, self.inputs, **changes)  # pyright: ignore[reportArgumentType]

    def train(self, name: str, phase: PhaseSpec = BASELINE, **changes: object) -> Path:
        """Run the stage `train` in-process; returns its work folder."""
        context = self.context(name)
        run_train(self.train_slice(phase, **changes), context)
        return context.work

    def base_slice(self, steps: int = 3) -> BaseSlice:
        """A base stage of a few steps."""
        return BaseSlice(
            (self.subset,), replace(self.model, base=SCRATCH), ACTIONS, BaseConfig(steps=steps, batch_size=4), TRAINER
        )

    def base_inputs(self) -> dict[str, Path]:
        """Inputs of the base stage."""
        return {f"{stage}/{self.subset.value}": self.inputs[stage] for stage in ("regenerate", "split", "annotate")}


def write_study(folder: Path, subset: Subset = Subset.OBJECT, demos: int = 2, steps: int = 16, size: int = 56) -> Study:
    """Synthetic demonstrations of two tasks with annotations, flow tokens, split, statistics and a random base."""
    data = write_synthetic_subset(folder / "data", subset, demos=demos, steps=steps, size=size)
    write_split_and_stats(data, folder / "fits", subset)
    source = Hdf5Source(data, subset)
    episodes = [source.open(episode) for episode in source.list()]
    save_annotations(folder / "annotations.json", {e.id: annotate(e) for e in episodes})
    manifest = {"backend": "synthetic", **made_of(episodes)}
    save_flow_tokens(folder / FLOW_TOKENS_JSON, {e.id: flow_of(e) for e in episodes}, manifest)
    save_tokenizer(folder / TOKENIZER_FILE, GridTokenizer(cells=4, levels=5, static_px=0.75).definition, {})
    source.close()
    write_tiny_base(folder / "base" / "base")
    inputs = {"regenerate": data, "split": folder / "fits", "stats": folder / "fits", "base": folder / "base"}
    return Study(folder, subset, inputs | {"annotate": folder, "tokens": folder})
