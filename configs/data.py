"""Settings of the simulator, the demonstrations and their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.building import added, not_in_key
from configs.checks import check, in_range
from configs.choices import STUDY, Look, RaftModel, Stepping, Subset


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
    style_spread: float = added(1.0)  # how much the expert's ways differ between demonstrations; 0: one way for all

    def __post_init__(self) -> None:
        check(
            self.source in ("auto", "official", "expert"),
            f"data.source={self.source!r}; allowed: auto, official, expert",
        )
        in_range("data.demos_per_task", self.demos_per_task, 1)
        in_range("data.transit_noise", self.transit_noise, 0, 1)
        in_range("data.style_spread", self.style_spread, 0, 1)
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
