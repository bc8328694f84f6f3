"""The run matrix -> a graph of stages. Pure: which folders exist was settled by `resolve`.

Phases, subsets and seeds share whatever has equal keys: twelve adapters use one set of annotations per subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.checks import ConfigError
from configs.choices import Control, Mode, Subset, Tune
from configs.model import LoraConfig
from configs.schema import ExperimentConfig
from configs.slices import (
    ControlSlice,
    EvaluateSlice,
    FullCheckpoint,
    FullSlice,
    ReportSlice,
    TrainSlice,
)
from experiment.data_stages import Data, without_adapters
from experiment.places import Places
from experiment.resolve import DataSource
from experiment.stages import StageNode, make_node
from training.base_folder import TINY_BASES

STAGE_OF_SOURCE = {"reasoning": "annotate", "flow": "tokens"}
"""What a phase's segments are made from -> the stage that makes it, which is also the input's name in training."""


FULL = "full"
"""The stage of a model that was trained elsewhere, and what `--model_type` calls one."""


@dataclass(frozen=True)
class Run:
    """One adapter of the study: one phase on one subset with one seed."""

    config: ExperimentConfig  # nothing is `auto`
    subset: Subset
    sources: Mapping[Subset, DataSource]
    variant: str = ""  # keeps changed settings apart: prob0.3
    substitutes: Mapping[str, StageNode] = field(default_factory=dict[str, StageNode])  # input name -> a user's file
    tasks: tuple[int, ...] = ()  # to evaluate; (): those of data.tasks

    @property
    def slug(self) -> str:
        """text_cot/object, text_cot@prob0.3/object."""
        return self.slug_of(self.config.phase.name)

    def slug_of(self, name: str) -> str:
        """The same for a control's name."""
        variant = f"@{self.variant}" if self.variant else ""
        return f"{name}{variant}/{self.subset.value}"

    def rollouts(self, modes: tuple[Mode, ...]) -> EvaluateSlice:
        """What the evaluation stages of this run read."""
        config = self.config
        return EvaluateSlice(
            subset=self.subset,
            tasks=self.tasks or config.data.tasks.of(self.subset),
            modes=modes,
            eval=config.eval,
            env=config.env,
            trainer=without_adapters(config.trainer),
            execute=config.action.execute,
            base=str(Path(config.model.base).absolute()) if Path(config.model.base).is_dir() else "",
        )

    @property
    def perturbed(self) -> str:
        """What keeps its perturbed evaluations beside the plain one: `@camera2`; "" for the plain one."""
        perturbation = self.config.eval.perturbation
        return f"@{perturbation.folder}" if perturbation else ""


def train_node(run: Run, places: Places, workers: int = 1) -> StageNode:
    """One adapter. Which labels it needs follows from its phase's segments."""
    config, subset = run.config, run.subset
    data = Data(config, run.sources, places, workers)
    makers = {"annotate": data.reasoning, "tokens": data.tokens}
    inputs = {"regenerate": data.regenerate(subset), "split": data.split(subset)}
    for source in config.phase.sources:
        name = STAGE_OF_SOURCE.get(source)
        if name is None:
            raise ConfigError(f"phase.segments.source={source!r}; allowed: {', '.join(STAGE_OF_SOURCE)}, action")
        inputs[name] = run.substitutes.get(name) or makers[name](subset)
    if config.model.base in TINY_BASES:
        inputs["base"] = data.base()  # brings the scale of its actions along
    else:
        inputs["stats"] = data.stats(subset)
    slice_ = TrainSlice(
        subset=subset,
        phase=config.reasoning_dropout.trimmed(config.phase),
        reasoning_dropout_prob=config.reasoning_dropout.prob,
        lora=config.lora if config.tune is Tune.LORA else LoraConfig(),
        optimizer=config.optimizer,
        model=config.model,
        action=config.action,
        trainer=config.trainer,
        batch_size=config.per_device_batch_size,
        accumulation=config.gradient_accumulation_steps,
        steps=config.max_train_steps,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
        dropout_variant=config.reasoning_dropout.variant,
        validation=config.validation,
        tune=config.tune,
    )
    return make_node("train", run.slug, slice_, inputs)


def evaluate_node(run: Run, adapter: StageNode, base: StageNode | None) -> StageNode:
    """Rollouts of one adapter. `think` is left out where the phase has nothing to think."""
    config = run.config
    modes = tuple(mode for mode in config.eval.modes if mode is Mode.NO_THINK or config.phase.sources)
    if not modes:
        raise ConfigError(f"phase {config.phase.name!r} has no reasoning: eval.modes needs no_think")
    inputs = {"adapter": adapter}
    if base is not None:
        inputs["base"] = base
    return make_node("evaluate", run.slug + run.perturbed, run.rollouts(modes), inputs)


def replay_node(run: Run, places: Places, workers: int = 1) -> StageNode:
    """The blind control of one subset, a row of every table: the mean demonstration, replayed."""
    data = Data(run.config, run.sources, places, workers)
    inputs = {"regenerate": data.regenerate(run.subset), "split": data.split(run.subset)}
    return make_node(
        "replay", run.slug_of(Control.REPLAY.value) + run.perturbed, run.rollouts((Mode.NO_THINK,)), inputs
    )


def control_node(run: Run, control: Control) -> StageNode:
    """A control that needs no data."""
    slice_ = ControlSlice(**vars(run.rollouts((Mode.NO_THINK,))), control=control)
    return make_node("control", run.slug_of(control.value) + run.perturbed, slice_, {})


def full_node(run: Run, checkpoint: FullCheckpoint) -> StageNode:
    """Rollouts of a model that was trained elsewhere."""
    slice_ = FullSlice(**vars(run.rollouts((Mode.NO_THINK,))), checkpoint=checkpoint)
    return make_node(FULL, run.slug_of(FULL) + run.perturbed, slice_, {})


@dataclass(frozen=True)
class Result:
    """One row's share of the report: an evaluation (or a control), and the training where there is one."""

    slug: str
    evaluate: StageNode
    train: StageNode | None


def report_node(results: Sequence[Result], title: str, preset: str) -> StageNode:
    """The table over finished evaluations, in the order given."""
    inputs: dict[str, StageNode] = {}
    for result in results:
        inputs[f"evaluate/{result.slug}"] = result.evaluate
        if result.train is not None:
            inputs[f"train/{result.slug}"] = result.train
    return make_node("report", "", ReportSlice(tuple(result.slug for result in results), title, preset), inputs)
