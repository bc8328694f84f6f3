"""Frames per second of each backend of optical flow: reading, estimating and averaging over cells, as the stage does.

Measured after a warm-up, in one process and in two at once. RAFT without weights runs with random ones: its speed does
not depend on them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.flow_demos import TASKS, cut, demo_in, env_of
from configs.choices import RaftModel
from configs.slices import FlowSlice, RaftSlice
from flow_pipeline.flow_field import cell_means
from flow_pipeline.raft_processor import make_estimator

HORIZON = 8
TIMEOUT_S = 600
FRAMES = {"sim": 60, "dis_chain": 60, "cuda": 96, "cpu": 4}


@dataclass(frozen=True)
class Case:
    """What is timed."""

    config: FlowSlice
    frames: int
    processes: tuple[int, ...]
    said: dict[str, str]


def cases(resolution: int, weights: dict[RaftModel, str], *, cuda: bool) -> Iterator[Case]:
    """Every backend; RAFT in each number format that its device has."""
    subset, device = next(iter(TASKS)), "cuda" if cuda else "cpu"
    for backend in ("sim", "dis_chain"):
        yield Case(FlowSlice(subset, backend, HORIZON, env_of(resolution)), FRAMES[backend], (1, 2), {})
    for model in RaftModel:
        for bf16 in (True, False) if cuda else (False,):
            raft = RaftSlice(model, bf16, "", weights.get(model, ""))
            said = {"number_format": "bf16" if bf16 else "fp32", "device": device}
            said |= {} if raft.path else {"weights": "random"}
            config = FlowSlice(subset, "raft", HORIZON, env_of(resolution), raft)
            yield Case(config, FRAMES[device], (1,) if cuda else (1, 2), said)


def speeds(folder: Path, case: Case) -> Iterator[dict[str, Any]]:
    """One row per number of processes. `folder`: of `make_demos`."""
    config = case.config
    name = config.raft.model.value if config.raft else config.backend
    for processes in case.processes:
        row = {"backend": name, "resolution": config.env.resolution, "processes": processes, **case.said}
        yield {**row, **_measured(config, folder, case.frames, processes)}


def _measured(config: FlowSlice, folder: Path, frames: int, processes: int) -> dict[str, float]:
    """Each process has its own estimator and does the same steps; they start together."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(processes), spawn.Queue()
    arguments = (config, folder, frames, barrier, results)
    children = [spawn.Process(target=_time_one, args=arguments) for _ in range(processes)]
    for child in children:
        child.start()
    times = [results.get(timeout=TIMEOUT_S) for _ in children]
    for child in children:
        child.join()
    done = sum(frames for frames, _, _ in times)
    return {
        "frames_per_s": round(done / max(wall_s for _, wall_s, _ in times), 2),
        "cpu_ms_per_frame": round(1000 * sum(cpu_s for *_, cpu_s in times) / done, 2),
    }


def _time_one(config: FlowSlice, folder: Path, frames: int, barrier: Any, results: Any) -> None:
    if config.raft is not None and not config.raft.path:
        config = dataclasses.replace(config, raft=_with_random_weights(config.raft, folder))
    estimator = make_estimator(config)
    episode = demo_in(folder, config.env.resolution, config.subset)
    done = _run(estimator.episode(cut(episode, 0, 2)))
    barrier.wait()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    done = _run(estimator.episode(cut(episode, 0, frames)))
    results.put((done, time.perf_counter() - wall_s, time.process_time() - cpu_s))
    estimator.close()


def _run(fields: Iterator[Any]) -> int:
    return len([cell_means(field) for field in fields])


def _with_random_weights(choice: RaftSlice, folder: Path) -> RaftSlice:
    import torch
    from torchvision.models import get_model

    path = folder / f"random-{os.getpid()}.pth"
    torch.save(get_model(choice.model.value, weights=None).state_dict(), path)
    return dataclasses.replace(choice, path=str(path))
