"""What each stage reads of the configuration, and nothing else: the part of its key that is not its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from configs.building import added, not_in_key
from configs.choices import Control, DropoutVariant, Mode, Normalization, RaftModel, Subset, Tune
from configs.data import AnnotatorConfig, CodebookConfig, EnvConfig
from configs.model import (
    ActionConfig,
    BaseConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    TrainerConfig,
    ValidationConfig,
)
from configs.phases import PhaseSpec
from configs.schema import EvalConfig


@dataclass(frozen=True)
class DemosSlice:
    """Stage `demos`: scripted expert demonstrations of one subset, in the official HDF5 layout."""

    subset: Subset
    tasks: tuple[int, ...]
    episodes_per_task: int
    seed: int
    env: EnvConfig
    workers: int = not_in_key(1)
    transit_noise: float = added(0.0)
    style_spread: float = added(1.0)


@dataclass(frozen=True)
class OfficialSlice:
    """Stage `official`: LIBERO's own files, named by content. The stage links them into its output."""

    subset: Subset
    tasks: tuple[int, ...]
    files: tuple[tuple[str, str], ...]  # (official file name, sha256)
    paths: tuple[str, ...] = not_in_key(())  # where each of them lies, under whatever name
    skip_bad: bool = not_in_key(default=False)  # bad demonstrations are left to the stage `regenerate`


@dataclass(frozen=True)
class RegenerateSlice:
    """Stage `regenerate`: replay, filter, render. Input `demos`."""

    subset: Subset
    env: EnvConfig
    skip_bad: bool = False
    workers: int = not_in_key(1)


@dataclass(frozen=True)
class SplitSlice:
    """Stage `split`. Input `regenerate`. Output split.json."""

    subset: Subset
    test_fraction: float
    seed: int


@dataclass(frozen=True)
class StatsSlice:
    """Stage `stats`: dataset_statistics.json over training demos. Inputs `regenerate`, `split`."""

    subset: Subset
    half_range_floor: float
    normalization: Normalization


@dataclass(frozen=True)
class AnnotateSlice:
    """Stage `annotate`: annotations.json. Input `regenerate`."""

    subset: Subset
    annotator: AnnotatorConfig
    env: EnvConfig
    workers: int = not_in_key(1)


@dataclass(frozen=True)
class RewordSlice:
    """Stage `reword`: annotations.json with texts reworded by a language model, quality.json. Input `annotate`."""

    subset: Subset
    model: str
    base_url: str
    json_mode: str
    thinking_tokens: int
    prompt_version: int
    usd_per_mtok_in: float = not_in_key(0.0)
    usd_per_mtok_out: float = not_in_key(0.0)
    max_usd: float = not_in_key(0.0)
    concurrency: int = not_in_key(1)
    timeout_s: float = not_in_key(120.0)
    api_key_env: str = not_in_key("")
    folder: str = not_in_key("")  # of paid replies and the ledger; outlives this stage


@dataclass(frozen=True)
class RaftSlice:
    """Which RAFT, of the stage `flow`."""

    model: RaftModel
    bf16: bool
    weights: str  # sha256 of their file; "" for torchvision's own
    path: str = not_in_key("")  # of that file


@dataclass(frozen=True)
class FlowSlice:
    """Stage `flow`: flow at the tokenizer's resolution (flow.npz). Input `regenerate`."""

    subset: Subset
    backend: str
    k: int
    env: EnvConfig
    raft: RaftSlice | None = None  # of backend `raft` alone
    workers: int = not_in_key(1)


@dataclass(frozen=True)
class CodebookSlice:
    """Stage `codebook`: a fitted flow tokenizer, codebook.json. Inputs `flow/<s>`, `split/<s>` of its subsets s."""

    cells: int
    static_px: float
    codebook: CodebookConfig


@dataclass(frozen=True)
class GridSlice:
    """A flow tokenizer that is not fitted."""

    cells: int
    levels: int
    static_px: float


@dataclass(frozen=True)
class TokensSlice:
    """Stage `tokens`: flow_tokens.{json,npz}, the tokenizer. Inputs `flow`, `regenerate`; `codebook` without `grid`."""

    subset: Subset
    grid: GridSlice | None = None


@dataclass(frozen=True)
class BaseSlice:
    """Stage `base`: the tiny backbone with its tokenizers, trained on all subsets.

    Inputs `regenerate/<subset>`, `split/<subset>`, `annotate/<subset>` for each subset.
    """

    subsets: tuple[Subset, ...]
    model: ModelConfig
    action: ActionConfig
    base: BaseConfig
    trainer: TrainerConfig


@dataclass(frozen=True)
class ShippedSlice:
    """Stage `shipped`: the tiny base that comes with the project. No inputs."""

    files: tuple[tuple[str, str], ...]  # (name, sha256)


@dataclass(frozen=True)
class TrainSlice:
    """Stage `train`: one LoRA adapter (or whole model), checkpoint-final/ and metrics.jsonl.

    Inputs `regenerate`, `split`, then `annotate`, `tokens` where the phase needs them, and `base` or else `stats`.
    """

    subset: Subset
    phase: PhaseSpec
    reasoning_dropout_prob: float
    lora: LoraConfig
    optimizer: OptimizerConfig
    model: ModelConfig
    action: ActionConfig
    trainer: TrainerConfig
    batch_size: int  # per device
    accumulation: int
    steps: int
    mixed_precision: str
    seed: int
    dropout_variant: DropoutVariant = added(DropoutVariant.WHOLE)
    validation: ValidationConfig = added(ValidationConfig())
    tune: Tune = added(Tune.LORA)


@dataclass(frozen=True)
class EvaluateSlice:
    """Stage `evaluate`: ledger.sqlite (work), episodes.jsonl, videos/. Input `adapter` (a train stage's output)."""

    subset: Subset
    tasks: tuple[int, ...]
    modes: tuple[Mode, ...]  # already reduced to what the phase offers
    eval: EvalConfig
    env: EnvConfig
    trainer: TrainerConfig
    execute: int
    base: str = not_in_key("")  # a local folder that the adapter stands on; its card knows its digest


@dataclass(frozen=True)
class ControlSlice(EvaluateSlice):
    """Stage `control`: as `evaluate`, of an untrained policy. No inputs."""

    control: Control = Control.ZERO


@dataclass(frozen=True)
class FullCheckpoint:
    """A whole model that was not trained here, and how its numbers are read."""

    name: str  # hub id, with @revision where one was given; local:<digest> for a folder
    action: ActionConfig  # of which only tokenizer and horizon are read
    image_size: int
    system_prompt: bool
    statistics: str = "{}"  # JSON text {key: record} of what was named; empty: what comes with the model
    unnorm_key: str = ""  # "": the suite's, by its usual names
    path: str = not_in_key("")  # of a folder; "" for a hub id


@dataclass(frozen=True)
class FullSlice(EvaluateSlice):
    """Stage `full`: as `evaluate`, of a full checkpoint. No inputs."""

    checkpoint: FullCheckpoint | None = None


@dataclass(frozen=True)
class ReportSlice:
    """Stage `report`: results.{md,csv,html}. Inputs `evaluate/<slug>`, `train/<slug>` for every run."""

    runs: tuple[str, ...]  # slugs, in the table's order
    title: str
    preset: str
