"""A training run: what is fixed, where it stands, on which device and with how many threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import Dataset

from configs.checks import check
from configs.choices import Role
from configs.model import OptimizerConfig, TrainerConfig
from training.action_figures import ActionReader
from training.batch import Batch
from training.flow_figures import FlowReader
from training.network import Network
from training.sampling import StepInput
from training.sharding import ShardedNetwork
from training.validation import Validation


@dataclass
class Run:
    """A training run: what is fixed, and where it stands."""

    model: nn.Module  # bare Qwen2.5-VL; its trainable parameters are those of the run
    inputs: Dataset[StepInput]  # item `step` is that step's input
    role_weights: Mapping[Role, float]
    schedule: OptimizerConfig
    steps: int
    seed: int
    accelerator: Accelerator  # device and precision
    name: str = ""  # for people who watch it
    actions: ActionReader | None = None  # None: decoded actions are not compared
    flow: FlowReader | None = None  # of a phase with flow
    validation: Validation | None = None
    step: int = 0  # steps done
    skipped_in_row: int = 0
    rows: int = 0  # samples of one forward pass at most, found when memory was short; 0: no limit
    sharded: bool = False  # no process holds the whole model
    network: Callable[[Batch, torch.Tensor], torch.Tensor] = field(init=False)
    parameters: dict[str, nn.Parameter] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        device = self.accelerator.device
        self.network = ShardedNetwork(self.model, device) if self.sharded else Network(self.model)
        self.parameters = {n: p for n, p in sorted(self.model.named_parameters()) if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.schedule.learning_rate,
            betas=self.schedule.betas,
            weight_decay=self.schedule.weight_decay,
            fused=True,
        )


def set_threads(trainer: TrainerConfig) -> None:
    """Fix the number of threads, as sums on the CPU depend on it."""
    if trainer.torch_threads:
        torch.set_num_threads(trainer.torch_threads)


def make_accelerator(trainer: TrainerConfig, mixed_precision: str) -> Accelerator:
    """Device (`auto` is CUDA where there is one) and precision (`bf16`, `no`) of one run."""
    check(
        trainer.device in ("auto", "cpu") or torch.cuda.is_available(),
        f"trainer.device={trainer.device!r}, but this machine has no CUDA device; allowed here: auto, cpu",
    )
    # Accelerate keeps one state per process, and a warm worker trains runs of several precisions.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=trainer.device == "cpu")
    check(
        accelerator.num_processes == trainer.processes,
        f"trainer.processes={trainer.processes}, but this run was started as {accelerator.num_processes} processes; "
        f"set trainer.processes={accelerator.num_processes}: it is part of the global batch",
    )
    return accelerator
