"""Every setting: type, range, default. YAML files hold values, these dataclasses hold what the values may be.

`build` turns plain mappings into frozen dataclasses and names whatever does not fit. `canonical` is the JSON view
that goes into a stage's key: fields made with `not_in_key` cannot change a result and are left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from configs.checks import ConfigError, check, in_range
from configs.choices import (
    STUDY,
    Component,
    Corruption,
    DropoutVariant,
    Look,
    Mode,
    Normalization,
    RaftModel,
    Role,
    Stepping,
    Subset,
)
from configs.perturbation import Perturbation


def not_in_key(default: Any) -> Any:
    """A field that cannot change a result (workers, devices): not part of a stage's key."""
    return field(default=default, metadata={"key": False})


def added(default: Any) -> Any:
    """A field that came later: at its default it is not part of a key, so that older results keep theirs."""
    return field(default=default, metadata={"unless": default})


# ------------------------------------------------------------------ phases


@dataclass(frozen=True)
class Segment:
    """One stretch of the assistant turn."""

    role: Role
    source: str  # key in Sample.parts: reasoning, flow, action
    loss_weight: float = 1.0
    without: tuple[Component, ...] = added(())  # of a text: never written, in training or at test time
    corrupt: Corruption = added(Corruption.NONE)
    static_weight: float = added(0.25)  # of a flow code that says "no motion", beside 1 for every other code

    def __post_init__(self) -> None:
        in_range("phase.segments.loss_weight", self.loss_weight, 0)
        in_range("phase.segments.static_weight", self.static_weight, 0, 1)
        check(
            self.role is Role.TEXT or not (self.without or self.corrupt is Corruption.NOISY_BOXES),
            f"phase.segments: role {self.role.value!r} has no components and no boxes; `without` and "
            "`corrupt: noisy_boxes` are for role 'text'",
        )
        check(
            self.role is not Role.ACTION or self.corrupt is Corruption.NONE,
            "phase.segments: the action is never corrupted",
        )
        check(
            self.role is Role.FLOW or self.static_weight == Segment.static_weight,
            f"phase.segments: role {self.role.value!r} has no static code; `static_weight` is for role 'flow'",
        )
        check(
            len(set(self.without)) < len(Component),
            "phase.segments.without names every component; leave the segment out instead",
        )


@dataclass(frozen=True)
class PhaseSpec:
    """A phase is data: what the model must write, in which order. The last segment is the action."""

    name: str
    segments: tuple[Segment, ...]
    label: str = not_in_key("")  # what tables call it; empty: its name

    def __post_init__(self) -> None:
        check(
            bool(self.segments) and self.segments[-1].role is Role.ACTION,
            f"phase.segments of {self.name!r}: the last segment must have role 'action'",
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """What must exist besides actions; the stages needed follow from it."""
        return tuple(s.source for s in self.segments if s.role is not Role.ACTION)

    def leaving_out(self, components: Collection[Component]) -> PhaseSpec:
        """The same phase, whose texts never have these components."""
        segments = tuple(
            dataclasses.replace(s, without=tuple(c for c in Component if c in (*components, *s.without)))
            if s.role is Role.TEXT
            else s
            for s in self.segments
        )
        return dataclasses.replace(self, segments=segments)


@dataclass(frozen=True)
class ReasoningDropout:
    """`prob` is the probability that a training sample has no reasoning; of variant `component`, each tag's own."""

    prob: float = 0.5
    cot_loss_weight: float = 0.5  # the phase files interpolate it into their non-action segments
    variant: DropoutVariant = DropoutVariant.WHOLE
    scheduled_stage: int = 0  # of variant `stage`: the first components, never written; 0: all are

    def __post_init__(self) -> None:
        in_range("reasoning_dropout.prob", self.prob, 0, 1)
        in_range("reasoning_dropout.cot_loss_weight", self.cot_loss_weight, 0)
        in_range("reasoning_dropout.scheduled_stage", self.scheduled_stage, 0, len(Component) - 1)
        check(
            self.scheduled_stage == 0 or self.variant is DropoutVariant.STAGE,
            f"reasoning_dropout.scheduled_stage={self.scheduled_stage} needs reasoning_dropout.variant=stage",
        )

    def trimmed(self, phase: PhaseSpec) -> PhaseSpec:
        """What the phase writes at this stage of the schedule, in training and at test time."""
        return phase.leaving_out(tuple(Component)[: self.scheduled_stage])


# ------------------------------------------------------------------ the simulator and the data


@dataclass(frozen=True)
class EnvConfig:
    """What an environment is drawn with and stepped by; all of it is in the fingerprint."""

    assets: str = "auto"  # auto | official | builtin (auto is resolved before it reaches a stage)
    look: Look = Look.OFFICIAL
    stepping: Stepping = Stepping.EXACT
    resolution: int = 256  # pixels, square
    assets_digest: str = ""  # of the asset set's content; filled in when a run is planned

    def __post_init__(self) -> None:
        check(
            self.assets in ("auto", "official", "builtin"),
            f"env.assets={self.assets!r}; allowed: auto, official, builtin",
        )
        in_range("env.resolution", self.resolution, 64, 1024)


@dataclass(frozen=True)
class TaskSelection:
    """Which tasks of each suite take part: ten, and ninety of libero_90."""

    spatial: tuple[int, ...] = tuple(range(10))
    object: tuple[int, ...] = tuple(range(10))
    goal: tuple[int, ...] = tuple(range(10))
    long: tuple[int, ...] = tuple(range(10))
    ninety: tuple[int, ...] = tuple(range(90))

    def __post_init__(self) -> None:
        for subset in Subset:
            chosen, count = self.of(subset), 90 if subset is Subset.NINETY else 10
            check(
                bool(chosen) and list(chosen) == sorted(set(chosen)) and set(chosen) <= set(range(count)),
                f"data.tasks.{subset.name.lower()}={list(chosen)}; "
                f"allowed: increasing task numbers from 0 to {count - 1}",
            )

    def of(self, subset: Subset) -> tuple[int, ...]:
        """Task numbers of one subset."""
        return getattr(self, subset.name.lower())


@dataclass(frozen=True)
class DataConfig:
    """Which demonstrations."""

    source: str = "auto"  # auto | official | expert
    tasks: TaskSelection = TaskSelection()
    demos_per_task: int = 50  # of the expert; official files are used whole
    skip_bad: bool = False  # leave out raw demonstrations that cannot be used, and list them
    test_fraction: float = 0.05
    seed: int = 42
    transit_noise: float = added(0.0)  # of the expert's executed (not recorded) actions in free space: std, of 1

    def __post_init__(self) -> None:
        check(
            self.source in ("auto", "official", "expert"),
            f"data.source={self.source!r}; allowed: auto, official, expert",
        )
        in_range("data.demos_per_task", self.demos_per_task, 1)
        in_range("data.transit_noise", self.transit_noise, 0, 1)
        in_range("data.test_fraction", self.test_fraction, 0, 0.5)


@dataclass(frozen=True)
class AnnotatorConfig:
    """Who words the reasoning: `rules` needs no network; `llm` has a language model reword what the rules say.

    What is not in the key here concerns the rewording, which is a stage of its own (RewordSlice). There is no field for
    an API key: only the name of the environment variable that holds it.
    """

    kind: str = "rules"  # rules | llm
    move_horizon: int = 12  # control steps (0.6 s) over which a movement primitive is measured
    model: str = not_in_key("gpt-4o-mini")
    base_url: str = not_in_key("https://api.openai.com/v1")  # of any server that speaks OpenAI's chat completions
    json_mode: str = not_in_key("schema")  # schema | object | none: tried first, in this order where a server refuses
    thinking_tokens: int = not_in_key(0)  # room for a model that thinks before it answers
    api_key_env: str = not_in_key("OPENAI_API_KEY")
    usd_per_mtok_in: float = not_in_key(-1.0)  # USD per million tokens; -1: of the price table
    usd_per_mtok_out: float = not_in_key(-1.0)
    max_usd: float = not_in_key(20.0)  # that all calls of one output directory may cost together
    concurrency: int = not_in_key(8)  # calls at once
    timeout_s: float = not_in_key(120.0)  # of one call, from its start to its last byte

    def __post_init__(self) -> None:
        check(self.kind in ("rules", "llm"), f"annotator.kind={self.kind!r}; allowed: rules, llm")
        check(
            self.json_mode in ("schema", "object", "none"),
            f"annotator.json_mode={self.json_mode!r}; allowed: schema, object, none",
        )
        check(
            self.base_url.startswith(("http://", "https://")),
            f"annotator.base_url={self.base_url!r}; allowed: an address that starts with http:// or https://",
        )
        check(
            not set(self.base_url) & set("@?#"),
            "annotator.base_url holds a user, a query or a fragment; an address is stored, so a secret goes into "
            "--llm-api-key",
        )
        check(bool(self.model), "annotator.model is empty; name a model of the server, e.g. gpt-4o-mini")
        in_range("annotator.move_horizon", self.move_horizon, 1, 100)
        in_range("annotator.thinking_tokens", self.thinking_tokens, 0, 100_000)
        in_range("annotator.max_usd", self.max_usd, 0)
        in_range("annotator.concurrency", self.concurrency, 1, 256)
        in_range("annotator.timeout_s", self.timeout_s, 0.1, 3600)


@dataclass(frozen=True)
class CodebookConfig:
    """A fitted flow tokenizer: on whose training demonstrations, its size, and how it is fitted."""

    subsets: tuple[Subset, ...] = STUDY
    levels: tuple[int, ...] = (8, 8, 8)  # of each latent dimension; their product is the number of moving codes
    width: int = 32  # channels of the codec
    blocks: int = 2  # of its encoder, and of its decoder
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 4e-3
    seed: int = 42

    def __post_init__(self) -> None:
        check(
            bool(self.subsets) and len(set(self.subsets)) == len(self.subsets) and set(self.subsets) <= set(STUDY),
            f"flow.codebook.subsets={[s.value for s in self.subsets]}; allowed: some of {', '.join(STUDY)}, each once",
        )
        check(
            bool(self.levels) and all(2 <= level <= 64 for level in self.levels) and math.prod(self.levels) < 2**16,
            f"flow.codebook.levels={list(self.levels)}; allowed: 2 to 64 each, with a product below 65536",
        )
        for name in ("width", "blocks", "steps"):
            in_range(f"flow.codebook.{name}", getattr(self, name), 1)
        in_range("flow.codebook.batch_size", self.batch_size, len(self.subsets))
        check(self.learning_rate > 0, f"flow.codebook.learning_rate={self.learning_rate}; allowed: above 0")


@dataclass(frozen=True)
class FlowConfig:
    """Optical flow from step t to t + k (k = action.horizon) and its tokens."""

    backend: str = "auto"  # auto | sim | raft | dis_chain
    raft_model: RaftModel = RaftModel.LARGE
    raft_weights: str = ""  # path of that model's state dict; empty: torchvision's own download
    raft_bf16: bool = True  # on a CUDA device; a CPU computes in float32
    tokenizer: str = "grid"  # grid: quantised cell means, nothing fitted; fsq: a codec fitted as `codebook` says
    cells: int = 8  # cells x cells tokens per frame
    levels: int = 5  # of grid: quantisation levels per flow component
    static_px: float = 0.75  # a cell below it, at 256 px scale, gets the static code
    codebook: CodebookConfig = CodebookConfig()  # of fsq

    def __post_init__(self) -> None:
        check(
            self.backend in ("auto", "sim", "raft", "dis_chain"),
            f"flow.backend={self.backend!r}; allowed: auto, sim, raft, dis_chain",
        )
        check(self.tokenizer in ("grid", "fsq"), f"flow.tokenizer={self.tokenizer!r}; allowed: grid, fsq")
        in_range("flow.cells", self.cells, 1, 16)
        check(
            self.tokenizer == "grid" or self.cells in (4, 8),
            f"flow.cells={self.cells}; allowed with flow.tokenizer=fsq: 4 (16 tokens per frame), 8 (64)",
        )
        check(
            self.tokenizer == "fsq" or self.codebook == CodebookConfig(),
            "flow.codebook.* acts with flow.tokenizer=fsq; flow.tokenizer=grid is not fitted",
        )
        check(
            self.tokenizer == "grid" or self.levels == FlowConfig.levels,
            f"flow.levels={self.levels} acts with flow.tokenizer=grid; those of fsq are flow.codebook.levels",
        )
        in_range("flow.static_px", self.static_px, 0)
        in_range("flow.levels", self.levels, 3, 33)

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary, the static code included."""
        return 1 + (self.levels**2 if self.tokenizer == "grid" else math.prod(self.codebook.levels))


# ------------------------------------------------------------------ model and training


@dataclass(frozen=True)
class ModelConfig:
    """The backbone. `base` is a hub id, a local path, `tiny` (ours) or `scratch` (of the sizes below, trained here)."""

    base: str = "declare-lab/nora"
    revision: str = ""  # 40-hex commit for hub ids
    image_size: int = 224  # pixels, what the policy sees; a multiple of 28
    system_prompt: bool = True
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 3
    text_vocab: int = 800
    flow_rows: int = 0  # spare embedding rows of the tiny backbone, taken by flow tokens

    def __post_init__(self) -> None:
        check(
            self.image_size % 28 == 0 and self.image_size > 0,
            f"model.image_size={self.image_size}; allowed: multiples of 28",
        )


@dataclass(frozen=True)
class ActionConfig:
    """Action chunks and the FAST tokenizer."""

    horizon: int = 5  # steps per chunk; also flow's k
    execute: int = not_in_key(5)  # steps executed before the next query; of an evaluation's key only
    tokenizer: str = "physical-intelligence/fast"  # a hub id or path of FAST+'s data files, or `fit`
    scale: float = 10.0
    codes: int = 2048
    normalization: Normalization = Normalization.BOUNDS_Q99
    half_range_floor: float = 0.0  # smallest action that becomes 1, per dimension, so that tiny motions stay tiny

    def __post_init__(self) -> None:
        in_range("action.horizon", self.horizon, 1, 64)
        in_range("action.execute", self.execute, 1, self.horizon)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the language model's linear layers."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        in_range("lora.rank", self.rank, 1, 1024)
        in_range("lora.alpha", self.alpha, 1)
        in_range("lora.dropout", self.dropout, 0, 0.99)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 5e-5
    warmup_steps: int = 1000
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check(self.learning_rate > 0, f"optimizer.learning_rate={self.learning_rate}; allowed: above 0")
        in_range("optimizer.warmup_steps", self.warmup_steps, 0)


@dataclass(frozen=True)
class BaseConfig:
    """Full-parameter training of the tiny backbone, once, before the adapters."""

    steps: int = 1200
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    language_batch: int = 1  # chains of thought per batch of them, before a grey image
    language_every: int = added(1)  # steps from one such batch to the next
    shift_px: int = 3  # random shifts of the image; only while no coordinates are taught
    seed: int = 42
    refine_steps: int = added(0)  # of a second round that starts from the weights of the first
    refine_learning_rate: float = added(5e-4)


@dataclass(frozen=True)
class TrainerConfig:
    """How training runs, apart from what it optimises."""

    torch_threads: int = 0  # 0: torch's default; a fixed number makes CPU results reproducible
    num_workers: int = not_in_key(2)
    device: str = not_in_key("auto")
    log_every: int = not_in_key(10)
    checkpoint_every: int = not_in_key(1000)  # steps between checkpoints to resume from, of which two stay
    keep_every: int = added(0)  # steps between checkpoints that stay as checkpoint-<step>; 0: none
    log: tuple[str, ...] = not_in_key(())  # besides metrics.jsonl: tensorboard, wandb
    processes: int = added(1)  # devices of this machine that share every global batch, each with its own batch size
    gradient_checkpointing: bool = added(False)  # noqa: FBT003 - a field's default

    def __post_init__(self) -> None:
        unknown = set(self.log) - {"tensorboard", "wandb"}
        check(not unknown, f"trainer.log={list(self.log)}; allowed: tensorboard, wandb")
        in_range("trainer.keep_every", self.keep_every, 0)
        in_range("trainer.checkpoint_every", self.checkpoint_every, 1)
        in_range("trainer.log_every", self.log_every, 1)
        in_range("trainer.processes", self.processes, 1, 64)


@dataclass(frozen=True)
class ValidationConfig:
    """Figures of held-out demonstrations during training, written to metrics.jsonl."""

    every: int = 1000  # steps, and after the last one; 0: never
    samples: int = 32  # steps of held-out demonstrations, the same every time

    def __post_init__(self) -> None:
        in_range("validation.every", self.every, 0)
        in_range("validation.samples", self.samples, 1)


# ------------------------------------------------------------------ evaluation and execution


@dataclass(frozen=True)
class EvalConfig:
    """Rollouts."""

    protocol: str = "standard"  # standard | nora
    num_trials: int = 50
    think_trials: int = -1  # -1: as num_trials
    modes: tuple[Mode, ...] = (Mode.NO_THINK, Mode.THINK)  # think only where the phase has reasoning
    freeze_chunks: int = 1  # chunks for which a reasoning is kept before a new one is written
    max_new_tokens: int = 512
    seed: int = 0
    deterministic: bool = True  # fixed batch shapes, so that timing and worker count cannot change a result
    batch_rows: int = 4
    perturb: str = ""  # what is changed in every episode: camera:2 (configs/perturbation.py); "": nothing
    videos: int = not_in_key(2)  # films per adapter and mode: so many failures, so many successes
    sim_workers: int = not_in_key(2)
    envs_per_worker: int = not_in_key(2)  # with two, a worker steps one while the policy thinks about the other
    recycle_episodes: int = not_in_key(100)  # a worker is replaced after so many; 0: never

    def __post_init__(self) -> None:
        in_range("eval.sim_workers", self.sim_workers, 1)
        in_range("eval.envs_per_worker", self.envs_per_worker, 1)
        in_range("eval.recycle_episodes", self.recycle_episodes, 0)
        check(self.protocol in ("standard", "nora"), f"eval.protocol={self.protocol!r}; allowed: standard, nora")
        in_range("eval.num_trials", self.num_trials, 1, 50)
        in_range("eval.think_trials", self.think_trials, -1, 50)
        in_range("eval.freeze_chunks", self.freeze_chunks, 1)
        in_range("eval.max_new_tokens", self.max_new_tokens, 1)
        in_range("eval.batch_rows", self.batch_rows, 1)
        in_range("eval.videos", self.videos, 0)
        if self.perturb:  # one spelling of `camera` and `camera:2`: it is part of the key
            object.__setattr__(self, "perturb", str(Perturbation.parse(self.perturb)))

    @property
    def perturbation(self) -> Perturbation | None:
        """What is changed, None for plain episodes."""
        return Perturbation.parse(self.perturb) if self.perturb else None


@dataclass(frozen=True)
class ExecutorConfig:
    """Where stages run."""

    kind: str = "local"
    cores: int = 0  # 0: all of this machine's
    retries: int = 2  # of stages killed by a signal


@dataclass(frozen=True)
class ExperimentConfig:
    """One run of one phase: the root of the YAML files."""

    phase: PhaseSpec
    preset: str = "nora_3b"
    per_device_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 100_000
    mixed_precision: str = "bf16"
    seed: int = 42
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    reasoning_dropout: ReasoningDropout = ReasoningDropout()
    model: ModelConfig = ModelConfig()
    action: ActionConfig = ActionConfig()
    trainer: TrainerConfig = TrainerConfig()
    validation: ValidationConfig = ValidationConfig()
    base: BaseConfig = BaseConfig()
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()
    annotator: AnnotatorConfig = AnnotatorConfig()
    flow: FlowConfig = FlowConfig()
    eval: EvalConfig = EvalConfig()
    executor: ExecutorConfig = ExecutorConfig()

    def __post_init__(self) -> None:
        in_range("per_device_batch_size", self.per_device_batch_size, 1)
        in_range("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)
        in_range("max_train_steps", self.max_train_steps, 1)
        check(self.mixed_precision in ("bf16", "no"), f"mixed_precision={self.mixed_precision!r}; allowed: bf16, no")
        rows, codes = self.model.flow_rows, self.flow.num_codes
        check(
            self.model.base != "scratch" or "flow" not in self.phase.sources or codes <= rows,
            f"flow.tokenizer={self.flow.tokenizer} has {codes} codes here, and model.base=scratch has spare rows for "
            f"{rows}; set model.flow_rows={codes} (now {rows})",
        )


# ------------------------------------------------------------------ plain values <-> dataclasses


def build(cls: type[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """Make a dataclass from plain values, recursively. Raises ConfigError that names the key and the nearest one."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {path}{near[0]}?" if near else f"allowed: {', '.join(names)}"
            raise ConfigError(f"unknown key {path}{key}; {hint}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    check(not missing, f"missing key {path}{', '.join(missing)}")
    return cls(**{k: _convert(hints[k], v, f"{path}{k}") for k, v in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        check(isinstance(value, Mapping), f"{path}={value!r} must be a group of keys")
        return build(hint, value, f"{path}.")
    if origin is tuple:
        check(isinstance(value, (list, tuple)), f"{path}={value!r} must be a list")
        args = typing.get_args(hint)
        kinds = [args[0]] * len(value) if args[-1] is ... else list(args)
        check(len(kinds) == len(value), f"{path}={value!r} must have {len(kinds)} entries")
        return tuple(_convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in hint)
            raise ConfigError(f"{path}={value!r}; allowed: {allowed}") from None
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    good = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(good, f"{path}={value!r} must be of type {hint.__name__}, not {type(value).__name__}")
    return value


_NEVER = object()


def canonical(value: Any, *, key_only: bool = True) -> Any:
    """Plain JSON view of a dataclass tree. With `key_only`, without fields that are not part of a key now."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: canonical(getattr(value, f.name), key_only=key_only)
            for f in dataclasses.fields(value)
            if not key_only
            or (f.metadata.get("key", True) and getattr(value, f.name) != f.metadata.get("unless", _NEVER))
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): canonical(v, key_only=key_only) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [canonical(v, key_only=key_only) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration; use plain values")
