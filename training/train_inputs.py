"""What the stage `train` reads: episodes with the sidecars its phase needs, and the action tokenizer of its base."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from configs.checks import ConfigError, check
from configs.model import ActionConfig
from configs.slices import TrainSlice
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import EpisodeId, FlowTokens, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.flow_tokens import (
    FLOW_TOKENS_NPZ,
    PLACE,
    check_flow_manifest,
    load_flow_manifest,
    load_flow_tokens,
    made_of,
)
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations
from training import action_tokenizer
from training.action_tokenizer import ACTION_TOKENIZER_FILE, FastTokenizer
from training.base_folder import SCRATCH, BaseFolder
from training.dataset import ACTION, FLOW, REASONING, TrainingData, action_chunk, load_training_data


def load_data(
    config: TrainSlice, context: StageContext, statistics: ActionStatistics, process: int = 0
) -> tuple[TrainingData, TrainingData]:
    """Training episodes of the subset with the phase's sidecars, and those held-out ones that the sidecars know.

    process: of those that share the work folder; each has its own frames. Raises ConfigError that names what
    is missing.
    """
    wanted = config.phase.sources
    unknown = [source for source in wanted if source not in (REASONING, FLOW)]
    check(not unknown, f"phase {config.phase.name!r}: unknown source {unknown}; allowed: {REASONING}, {FLOW}, {ACTION}")
    source = Hdf5Source(context.inputs["regenerate"], config.subset)
    subset = config.subset.value
    annotations = (
        load_annotations(_sidecar(context, "annotate", "annotations.json", "generate_ecot", subset))
        if REASONING in wanted
        else None
    )
    flow = _load_flow(config, context, source) if FLOW in wanted else None
    split = load_split(context.inputs["split"] / SPLIT_FILE)
    known = [e for e in split.test if all(side is None or e in side for side in (annotations, flow))]

    def load(episodes: Iterable[EpisodeId], overflow: str) -> TrainingData:
        return load_training_data(
            (source.open(episode) for episode in episodes),
            {config.subset: statistics},
            config.action.horizon,
            config.model.image_size,
            context.work / overflow,
            annotations,
            flow,
        )

    data = (
        load(split.train, f"frames-{process}.npy"),
        load(known if config.validation.every else (), f"frames_test-{process}.npy"),
    )
    source.close()
    return data


def _load_flow(config: TrainSlice, context: StageContext, source: Hdf5Source) -> dict[EpisodeId, FlowTokens]:
    """Flow tokens of these very demonstrations. Raises ConfigError where they were made of others, or of another k."""
    path = _sidecar(context, "tokens", FLOW_TOKENS_NPZ, "preprocess_flow", config.subset.value)
    wanted = {"k": config.action.horizon, **PLACE, **made_of(map(source.open, source.list()))}
    check_flow_manifest(path, load_flow_manifest(path), wanted, config.subset)
    return load_flow_tokens(path)


def _sidecar(context: StageContext, stage: str, file: str, script: str, subset: str) -> Path:
    if stage not in context.inputs:
        raise ConfigError(f"this phase needs {file} of libero_{subset}: run scripts/{script}.py --subset {subset}")
    return context.inputs[stage] / file


def find_actions(
    config: TrainSlice, base: BaseFolder, data: TrainingData, statistics: ActionStatistics
) -> FastTokenizer:
    """The base's own action tokenizer, else `make_actions` on this subset. Raises ConfigError where it does not fit."""
    saved = base.path / ACTION_TOKENIZER_FILE
    if saved.is_file():
        actions = action_tokenizer.load(saved)
    else:
        actions = make_actions(config.action, (e.actions for e in data.episodes), statistics.largest)
    horizon = config.action.horizon
    check(
        actions.horizon == horizon,
        f"action.horizon={horizon}, but the base model's action tokenizer has horizon {actions.horizon}",
    )
    actions.check_reach(statistics.largest)
    return actions


def make_actions(action: ActionConfig, episodes: Iterable[np.ndarray], largest: float) -> FastTokenizer:
    """The configured FAST+ files, or a fit on the normalised actions of training episodes (float [T, 7] each).

    largest: of the normalised actions, see ActionStatistics.
    """
    if action.tokenizer != "fit":
        return action_tokenizer.from_hub_files(action.tokenizer, action.horizon)
    every = (action_chunk(actions, step, action.horizon) for actions in episodes for step in range(len(actions)))
    return action_tokenizer.fit(every, action.horizon, action.scale, action.codes, largest)


def codes_per_step(data: TrainingData) -> int:
    """Flow codes of one step. Raises ConfigError where episodes differ."""
    counts = {e.flow.codes.shape[1] for e in data.episodes if e.flow is not None}
    check(len(counts) == 1, f"the flow tokens of these episodes have {sorted(counts)} codes per step")
    return counts.pop()


def num_flow_codes(config: TrainSlice, data: TrainingData) -> int:
    """Codes of the flow tokenizer, 0 without flow. Raises ConfigError where they do not fit the base."""
    counts = {e.flow.num_codes for e in data.episodes if e.flow is not None}
    check(len(counts) <= 1, f"the flow tokens of these episodes come from different tokenizers: {sorted(counts)} codes")
    count = max(counts, default=0)
    spare = config.model.flow_rows
    check(
        config.model.base != SCRATCH or count <= spare,
        f"{count} flow codes need more than the tiny base's spare rows; set model.flow_rows={count} (now {spare})",
    )
    return count
