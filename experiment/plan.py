"""The run matrix -> a graph of stages. Pure: which folders exist was settled by `resolve`.

Phases, subsets and seeds share whatever has equal keys: twelve adapters use one set of annotations per subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.checks import ConfigError
from configs.choices import STUDY, Control, Mode, Subset
from configs.model import BaseConfig, TrainerConfig
from configs.schema import ExperimentConfig
from configs.slices import (
    AnnotateSlice,
    BaseSlice,
    CodebookSlice,
    ControlSlice,
    DemosSlice,
    EvaluateSlice,
    FlowSlice,
    FullCheckpoint,
    FullSlice,
    GridSlice,
    OfficialSlice,
    RegenerateSlice,
    ReportSlice,
    RewordSlice,
    ShippedSlice,
    SplitSlice,
    StatsSlice,
    TokensSlice,
    TrainSlice,
)
from data_pipeline.llm_money import price_of
from data_pipeline.llm_prompts import PROMPT_VERSION
from experiment.known_files import official_files, raft_choice
from experiment.resolve import EXPERT, DataSource
from experiment.stages import StageNode, make_node
from experiment.views import View
from training.base_folder import TINY, TINY_BASES
from training.shipped_base import ShippedBase

STAGE_OF_SOURCE = {"reasoning": "annotate", "flow": "tokens"}
"""What a phase's segments are made from -> the stage that makes it, which is also the input's name in training."""


FULL = "full"
"""The stage of a model that was trained elsewhere, and what `--model_type` calls one."""


@dataclass(frozen=True)
class Places:
    """Folders of a run."""

    output_dir: Path
    data_dir: Path

    @property
    def store(self) -> Path:
        """Root of the store."""
        return self.output_dir / ".store"

    @property
    def replies(self) -> Path:
        """Paid replies of language models and what they cost; apart from the store, so that they outlive it."""
        return self.output_dir / ".llm_cache"

    @property
    def results(self) -> Path:
        """Where the table is published."""
        return self.output_dir / "eval_results"


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
            trainer=_without_adapters(config.trainer),
            execute=config.action.execute,
        )

    @property
    def perturbed(self) -> str:
        """What keeps its perturbed evaluations beside the plain one: `@camera2`; "" for the plain one."""
        perturbation = self.config.eval.perturbation
        return f"@{perturbation.folder}" if perturbation else ""


@dataclass(frozen=True)
class Data:
    """Builds the data stages of one configuration."""

    config: ExperimentConfig
    sources: Mapping[Subset, DataSource]
    places: Places
    workers: int = 1

    def demos(self, subset: Subset) -> StageNode:
        """Demonstrations in the official layout: the expert's, or LIBERO's own."""
        data, source = self.config.data, self.sources[subset]
        tasks = data.tasks.of(subset)
        if source.kind == EXPERT:
            config = DemosSlice(
                subset=subset,
                tasks=tasks,
                episodes_per_task=data.demos_per_task,
                seed=data.seed,
                env=self.config.env,
                workers=self.workers,
                transit_noise=data.transit_noise,
                style_spread=data.style_spread,
            )
            return make_node("demos", subset.value, config, {})
        files, paths = official_files(source, subset, tasks, self.places.store)
        return make_node("official", subset.value, OfficialSlice(subset, tasks, files, paths, data.skip_bad), {})

    def regenerate(self, subset: Subset) -> StageNode:
        """Replayed, filtered demonstrations. Files that are already clean stand for themselves.

        So do the expert's with noise in transit: what they record is not what was executed, and cannot be replayed.
        """
        demos = self.demos(subset)
        if self.sources[subset].clean or (self.sources[subset].kind == EXPERT and self.config.data.transit_noise):
            return demos
        config = RegenerateSlice(subset, self.config.env, self.config.data.skip_bad, self.workers)
        return make_node("regenerate", subset.value, config, {"demos": demos})

    def split(self, subset: Subset) -> StageNode:
        """Which demos train."""
        config = SplitSlice(subset, self.config.data.test_fraction, self.config.data.seed)
        return make_node("split", subset.value, config, {"regenerate": self.regenerate(subset)})

    def stats(self, subset: Subset) -> StageNode:
        """Action bounds over training demos."""
        inputs = {"regenerate": self.regenerate(subset), "split": self.split(subset)}
        action = self.config.action
        return make_node(
            "stats", subset.value, StatsSlice(subset, action.half_range_floor, action.normalization), inputs
        )

    def annotate(self, subset: Subset) -> StageNode:
        """Chain of thought per step, by rules; the same whoever rewords it."""
        rules = replace(self.config.annotator, kind="rules")
        config = AnnotateSlice(subset, rules, self.config.env, self.workers)
        return make_node("annotate", subset.value, config, {"regenerate": self.regenerate(subset)})

    def reasoning(self, subset: Subset) -> StageNode:
        """The chain of thought that a phase is trained on: the rules', or a language model's rewording of it."""
        rules, llm = self.annotate(subset), self.config.annotator
        if llm.kind == "rules":
            return rules
        price = price_of(llm)
        config = RewordSlice(
            subset=subset,
            model=llm.model,
            base_url=llm.base_url,
            json_mode=llm.json_mode,
            thinking_tokens=llm.thinking_tokens,
            prompt_version=PROMPT_VERSION,
            usd_per_mtok_in=price.prompt,
            usd_per_mtok_out=price.completion,
            max_usd=llm.max_usd,
            concurrency=llm.concurrency,
            timeout_s=llm.timeout_s,
            api_key_env=llm.api_key_env,
            folder=str(self.places.replies),
        )
        return make_node("reword", subset.value, config, {"annotate": rules})

    def flow(self, subset: Subset) -> StageNode:
        """Optical flow over one action chunk."""
        backend, horizon = self.config.flow.backend, self.config.action.horizon
        raft = raft_choice(self.config.flow, self.places.store) if backend == "raft" else None
        config = FlowSlice(subset, backend, horizon, self.config.env, raft, self.workers)
        worker = {"sim": "sim", "raft": "torch"}.get(backend, "light")
        return make_node("flow", subset.value, config, {"regenerate": self.regenerate(subset)}, worker=worker)

    def tokens(self, subset: Subset) -> StageNode:
        """Flow as discrete tokens."""
        flow = self.config.flow
        inputs = {"flow": self.flow(subset), "regenerate": self.regenerate(subset)}
        if flow.tokenizer == "grid":
            config = TokensSlice(subset, GridSlice(flow.cells, flow.levels, flow.static_px))
            return make_node("tokens", subset.value, config, inputs)
        return make_node(
            "tokens", subset.value, TokensSlice(subset), {**inputs, "codebook": self.codebook()}, worker="torch"
        )

    def codebook(self) -> StageNode:
        """The fitted flow tokenizer; the same whichever subset is asked for."""
        flow = self.config.flow
        makers = {"flow": self.flow, "split": self.split}
        inputs = {f"{name}/{s.value}": make(s) for name, make in makers.items() for s in flow.codebook.subsets}
        return make_node("codebook", "", CodebookSlice(flow.cells, flow.static_px, flow.codebook), inputs)

    def base(self) -> StageNode:
        """The tiny backbone: the shipped one, or trained on all subsets; the same whichever subset is asked for."""
        config = self.config
        if config.model.base == TINY:
            ShippedBase.read().check_fits(config)
            return shipped_node()
        own = replace(config.base, refine_steps=0, refine_learning_rate=BaseConfig.refine_learning_rate)
        slice_ = BaseSlice(STUDY, config.model, config.action, own, _without_adapters(config.trainer))
        makers = {"regenerate": self.regenerate, "split": self.split, "annotate": self.annotate}
        inputs = {f"{name}/{subset.value}": make(subset) for name, make in makers.items() for subset in STUDY}
        first = make_node("base", "", slice_, inputs)
        if not config.base.refine_steps:
            return first
        rate = config.base.refine_learning_rate
        again = replace(own, steps=config.base.refine_steps, learning_rate=rate, seed=own.seed + 1)
        return make_node("base", "second round", replace(slice_, base=again), {**inputs, "start": first})


def _without_adapters(trainer: TrainerConfig) -> TrainerConfig:
    """What stages beside `train` read of it, so that its other settings are in no other key."""
    return replace(trainer, keep_every=0, processes=1, gradient_checkpointing=False)


def shipped_node() -> StageNode:
    """The tiny base that comes with the project; its key follows from its files."""
    return make_node("shipped", "", ShippedSlice(tuple(sorted(ShippedBase.read().files.items()))), {})


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
        lora=config.lora,
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


def demos_view(places: Places, node: StageNode, subset: Subset) -> View:
    """Expert demonstrations, apart from downloads. Deleting them is no request: they are linked again."""
    note = f'{{"stage":"{node.stage}","demonstrations":"{EXPERT}"}}'
    return View(node, places.data_dir / f"libero_{subset.value}_expert", redo=False, note=note)


def train_view(places: Places, node: StageNode) -> View:
    """outputs/<phase>/<subset>/: checkpoint-final/, metrics.jsonl."""
    return View(node, places.output_dir / node.spec.slug)


def evaluate_view(places: Places, node: StageNode, group: str) -> View:
    """outputs/eval_results/<phase>/<subset>/, of a perturbed one <phase>/<subset>@camera2/."""
    return View(node, places.results / node.spec.slug, group=group)


def report_view(places: Places, node: StageNode, group: str) -> View:
    """outputs/eval_results/: results.md, .csv, .html, videos/."""
    return View(node, places.results, group=group)


def expert_views(data: Data) -> list[View]:
    """The demonstrations of every subset that the expert serves."""
    expert = [subset for subset, source in data.sources.items() if source.kind == EXPERT]
    return [demos_view(data.places, data.demos(subset), subset) for subset in expert]
