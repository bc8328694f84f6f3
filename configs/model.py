"""Settings of the backbone, the adapters and their training."""

from __future__ import annotations

from dataclasses import dataclass

from configs.building import added, not_in_key
from configs.checks import check, in_range
from configs.choices import Normalization


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
    base_bits: int = added(16)  # 8, 4: those layers of the base are quantised while the adapter trains (QLoRA)

    def __post_init__(self) -> None:
        in_range("lora.rank", self.rank, 1, 1024)
        in_range("lora.alpha", self.alpha, 1)
        in_range("lora.dropout", self.dropout, 0, 0.99)
        check(self.base_bits in (4, 8, 16), f"lora.base_bits={self.base_bits}; allowed: 4, 8, 16")


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
    shard: bool = added(False)  # noqa: FBT003 - of tune=full: each process holds its share of the model (FSDP)

    def __post_init__(self) -> None:
        unknown = set(self.log) - {"tensorboard", "wandb"}
        check(not unknown, f"trainer.log={list(self.log)}; allowed: tensorboard, wandb")
        check(self.device in ("auto", "cpu", "cuda"), f"trainer.device={self.device!r}; allowed: auto, cpu, cuda")
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
