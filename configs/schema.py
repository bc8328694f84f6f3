"""Every setting: type, range, default. YAML files hold values, these dataclasses hold what the values may be.

Here is the root of the YAML files, with rollouts and execution; its groups are in `phases.py`, `data.py`, `model.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.building import not_in_key
from configs.checks import check, in_range
from configs.choices import Mode, Tune
from configs.data import AnnotatorConfig, DataConfig, EnvConfig, FlowConfig
from configs.model import (
    ActionConfig,
    BaseConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    TrainerConfig,
    ValidationConfig,
)
from configs.perturbation import Perturbation
from configs.phases import PhaseSpec, ReasoningDropout


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
    tune: Tune = Tune.LORA  # full: without an adapter; what `lora` says is of no use then
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
        check(
            self.tune is Tune.LORA or self.lora.base_bits == 16,
            f"tune={self.tune} with lora.base_bits={self.lora.base_bits}: quantised layers do not train; allowed: 16",
        )
        check(
            not self.trainer.shard
            or (self.tune is Tune.FULL and self.trainer.processes > 1 and self.validation.every == 0),
            f"trainer.shard=true with tune={self.tune}, trainer.processes={self.trainer.processes}, "
            f"validation.every={self.validation.every}; allowed: full, 2 or more, 0 (what the model writes by itself "
            "needs all of it in one place; evaluate checkpoints of trainer.keep_every instead)",
        )
        rows, codes = self.model.flow_rows, self.flow.num_codes
        check(
            self.model.base != "scratch" or "flow" not in self.phase.sources or codes <= rows,
            f"flow.tokenizer={self.flow.tokenizer} has {codes} codes here, and model.base=scratch has spare rows for "
            f"{rows}; set model.flow_rows={codes} (now {rows})",
        )
