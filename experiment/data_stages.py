"""The data stages of a configuration: from demonstrations to what an adapter is trained on, its base included.

Pure: which folders exist was settled by `resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.choices import STUDY, Subset
from configs.model import TrainerConfig
from configs.schema import ExperimentConfig
from configs.slices import (
    AnnotateSlice,
    BaseSlice,
    CodebookSlice,
    DemosSlice,
    FlowSlice,
    GridSlice,
    OfficialSlice,
    RegenerateSlice,
    RewordSlice,
    ShippedSlice,
    SplitSlice,
    StatsSlice,
    TokensSlice,
)
from data_pipeline.llm_money import price_of
from data_pipeline.llm_prompts import PROMPT_VERSION
from experiment.known_files import official_files, raft_choice
from experiment.places import Places, demos_view
from experiment.resolve import EXPERT, DataSource
from experiment.stages import StageNode, make_node
from experiment.views import View
from training.base_folder import TINY
from training.shipped_base import ShippedBase


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
        slice_ = BaseSlice(STUDY, config.model, config.action, config.base, without_adapters(config.trainer))
        makers = {"regenerate": self.regenerate, "split": self.split, "annotate": self.annotate}
        inputs = {f"{name}/{subset.value}": make(subset) for name, make in makers.items() for subset in STUDY}
        return make_node("base", "", slice_, inputs)


def shipped_node() -> StageNode:
    """The tiny base that comes with the project; its key follows from its files."""
    return make_node("shipped", "", ShippedSlice(tuple(sorted(ShippedBase.read().files.items()))), {})


def expert_views(data: Data) -> list[View]:
    """The demonstrations of every subset that the expert serves."""
    expert = [subset for subset, source in data.sources.items() if source.kind == EXPERT]
    return [demos_view(data.places, data.demos(subset), subset) for subset in expert]


def without_adapters(trainer: TrainerConfig) -> TrainerConfig:
    """What stages beside `train` read of it, so that its other settings are in no other key."""
    return replace(trainer, keep_every=0, processes=1, gradient_checkpointing=False)
