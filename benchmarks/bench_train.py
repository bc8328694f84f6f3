"""Training speed: our loop against the reference recipe (reference_training.py), in one run, taking turns.

Same model (random weights), adapter, samples, batch, threads, workers and precision; the reference is the stock forward
pass with the stock loss and the library's processor per batch. One JSON line per phase: samples/s and tokens/s of both
(medians over the rounds), the median of the rounds' ratios, MFU (operations of our step, counted; against a measured
matrix product), peak memory, mean and padded S, and the head's memory (head_memory.py). On CUDA also where the time
goes, and the largest batch that fits.

usage: python benchmarks/bench_train.py [--phases A,B,C] [--rounds 5] [--steps 12] [--threads 1] [--workers 1]
       [--preset tiny|nora_3b|nora_3b_shrunk] [--device cpu|cuda] [--batch 16] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.head_memory import head_memory
from benchmarks.machine import keep
from benchmarks.reference_training import ReferenceCollator, ReferenceData, ReferenceTrainer
from benchmarks.train_subject import PHASES, SHAPES, Setting, Subject, make_subject
from configs.model import TrainerConfig
from training.loop import stream, train_step
from training.run import Run
from training.sampling import StepInput

WARM_UP = 2  # steps of each turn before its clock starts
PROFILED_ROWS = 15


class Contender(Protocol):
    """A training loop."""

    def stream(self, first: int, last: int) -> Iterator[Any]:
        """Inputs of steps first..last-1, made by workers."""
        ...

    def step(self, inputs: Any) -> None:
        """One update."""
        ...


@dataclass(frozen=True)
class Ours:
    """The product's loop."""

    run: Run
    workers: int

    def stream(self, first: int, last: int) -> Iterator[StepInput]:
        """See Contender."""
        self.run.step, self.run.steps = first, last
        return stream(self.run, self.workers)

    def step(self, inputs: StepInput) -> None:
        """See Contender."""
        train_step(self.run, inputs)


@dataclass(frozen=True)
class Reference:
    """The recipe's loop."""

    trainer: ReferenceTrainer
    data: ReferenceData
    collator: ReferenceCollator
    workers: int

    def stream(self, first: int, last: int) -> Iterator[dict[str, torch.Tensor]]:
        """See Contender."""
        steps = range(first, last)
        return iter(
            DataLoader(self.data, batch_size=None, sampler=steps, num_workers=self.workers, collate_fn=self.collator)
        )

    def step(self, inputs: dict[str, torch.Tensor]) -> None:
        """See Contender."""
        self.trainer.step(inputs)


@dataclass
class Turns:
    """What a contender's turns gave."""

    seconds: list[float] = field(default_factory=list[float])  # per step
    peak_mb: float = 0.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", default="A,B,C")
    parser.add_argument("--preset", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for name, default in {"rounds": 5, "steps": 12, "threads": 1, "workers": 1, "batch": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for phase in options.phases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            keep({"benchmark": "train", "phase": phase, **measure(options, phase, Path(folder))}, options.out)
    return 0


def measure(options: argparse.Namespace, phase: str, folder: Path) -> dict[str, Any]:
    """One phase's line."""
    cuda = options.device == "cuda"
    setting = Setting(
        shape=SHAPES[options.preset],
        batch_size=options.batch or (32 if cuda else 16),
        steps=1 + options.rounds * (WARM_UP + options.steps),
        trainer=TrainerConfig(torch_threads=options.threads, num_workers=options.workers, device=options.device),
        mixed_precision="bf16" if cuda else "no",
    )
    subject = make_subject(folder, setting, PHASES[phase])
    check_same_task(subject)
    ours = Ours(subject.run(), options.workers)
    trainer = ReferenceTrainer(subject.adapted().train(), ours.run.accelerator, 1e-4, setting.steps)
    reference = Reference(
        trainer,
        ReferenceData(subject.data, subject.layout, subject.plan, setting.steps),
        ReferenceCollator(subject.processor()),
        options.workers,
    )
    turns = {"ours": Turns(), "reference": Turns()}
    for number in range(options.rounds):
        first = number * (WARM_UP + options.steps)
        order = ("ours", "reference") if number % 2 == 0 else ("reference", "ours")
        for name in order:
            take_turn(ours if name == "ours" else reference, first, options.steps, turns[name], cuda=cuda)
    line = described(subject, turns) | {k: getattr(options, k) for k in ("preset", "threads", "workers", "rounds")}
    line |= efficiency(ours, turns["ours"])
    at_3b = sizes(make_subject(folder / "3b", replace(setting, shape=SHAPES["nora_3b"]), PHASES[phase]))
    line["head_memory"] = {"rows": at_3b, **head_memory(32, at_3b["longest_S"], at_3b["targets_per_sample"])}
    return line | (on_cuda(ours, subject) if cuda else {})


def check_same_task(subject: Subject) -> None:
    """Both make the same tokens and targets of the first step's samples."""
    collator = ReferenceCollator(subject.processor())
    data = ReferenceData(subject.data, subject.layout, subject.plan, 1)
    theirs = collator(data[0])
    kept = [(i[m == 1].tolist(), int((lab >= 0).sum())) for i, m, lab in _rows(theirs)]
    mine: list[tuple[list[int], int]] = []
    for batch in subject.inputs()[0].batches:
        rows = zip(batch.input_ids, batch.real, batch.labels, strict=True)
        mine += [(i[r].tolist(), int((lab >= 0).sum())) for i, r, lab in rows]
    assert sorted(mine) == sorted(kept), "the reference does not train on the same tokens"


def _rows(inputs: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True)


def take_turn(contender: Contender, first: int, steps: int, turns: Turns, *, cuda: bool) -> None:
    """Some warm-up steps, then timed ones, each waiting for its data."""
    _reset_peak(cuda=cuda)
    inputs = contender.stream(first, first + WARM_UP + steps)
    for _ in range(WARM_UP):
        contender.step(next(inputs))
    _wait(cuda=cuda)
    began = time.perf_counter()
    for step_input in inputs:
        contender.step(step_input)
    _wait(cuda=cuda)
    turns.seconds.append((time.perf_counter() - began) / steps)
    turns.peak_mb = max(turns.peak_mb, _peak_mb(cuda=cuda))


def described(subject: Subject, turns: dict[str, Turns]) -> dict[str, Any]:
    """Speeds and sizes."""
    line: dict[str, Any] = {"batch": subject.setting.batch_size, **sizes(subject)}
    samples, tokens = subject.setting.batch_size, subject.setting.batch_size * line["mean_S"]
    for name, turn in turns.items():
        seconds = median(turn.seconds)
        line[name] = {
            "samples_per_s": round(samples / seconds, 2),
            "tokens_per_s": round(tokens / seconds),
            "peak_mb": round(turn.peak_mb),
        }
    ratios = [r / o for r, o in zip(turns["reference"].seconds, turns["ours"].seconds, strict=True)]
    return line | {"ratio": round(median(ratios), 3), "ratios": [round(r, 3) for r in ratios]}


def sizes(subject: Subject) -> dict[str, Any]:
    """Lengths of the first steps' sequences."""
    inputs = subject.inputs()
    looked_at = min(8, len(inputs))
    batches = [b for step in range(looked_at) for b in inputs[step].batches]
    seen = subject.setting.batch_size * looked_at
    return {
        "mean_S": round(sum(int(b.real.sum()) for b in batches) / seen, 1),
        "padded_S": round(sum(b.input_ids.numel() for b in batches) / seen, 1),
        "longest_S": max(b.input_ids.shape[1] for b in batches),
        "targets_per_sample": round(sum(int((b.labels >= 0).sum()) for b in batches) / seen, 1),
    }


def efficiency(ours: Ours, turns: Turns) -> dict[str, Any]:
    """Operations of one of our steps, and the share of the machine's measured matrix rate that they reach."""
    inputs = list(ours.stream(0, 4))
    counted: list[int] = []
    for step_input in inputs:
        with FlopCounterMode(display=False) as counter:
            ours.step(step_input)
        counted.append(counter.get_total_flops())
    rate = matrix_rate(ours.run.accelerator.device)
    used = mean(counted) / median(turns.seconds)
    return {
        "gflop_per_step": round(mean(counted) / 1e9, 2),
        "matrix_gflops": round(rate / 1e9, 1),
        "mfu": round(used / rate, 4),
    }


def matrix_rate(device: torch.device) -> float:
    """Measured operations per second of a square product, float32 on a CPU, bf16 on CUDA."""
    cuda = device.type == "cuda"
    size, kind = (8192, torch.bfloat16) if cuda else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b)
        _wait(cuda=cuda)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def on_cuda(ours: Ours, subject: Subject) -> dict[str, Any]:
    """Where our step's time goes, and the largest batch that fits."""
    inputs = list(ours.stream(0, 3))
    ours.step(inputs[0])
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for step_input in inputs[1:]:
            ours.step(step_input)
        _wait(cuda=True)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)[:PROFILED_ROWS]
    spent = {row.key[:60]: round(row.self_device_time_total / 2e3, 2) for row in rows}
    return {
        "device": torch.cuda.get_device_name(),
        "device_ms_per_step": spent,
        "largest_batch": largest_batch(ours, subject),
    }


def largest_batch(ours: Ours, subject: Subject) -> int:
    """Samples of one forward and backward pass, doubled until they do not fit."""
    size = subject.setting.batch_size
    while True:
        inputs = subject.inputs(2 * size)[0]
        try:
            ours.step(inputs)
        except torch.OutOfMemoryError:
            return size
        size *= 2


def _wait(*, cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _reset_peak(*, cuda: bool) -> None:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew


def _peak_mb(*, cuda: bool) -> float:
    """Largest memory since the reset: allocated on the device, or this process's resident set."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
