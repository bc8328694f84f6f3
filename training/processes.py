"""One run on several devices of this machine: this process is rank 0, the others are started here and end with it.

Each has one device and its share of every global batch; only rank 0 reports, writes and is asked to stop. The work
folder is shared, so that all take up the same checkpoint.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.checks import check
from configs.model import TrainerConfig
from data_pipeline.contract import StageContext

_LAUNCHED = "WORLD_SIZE"


@contextmanager
def companions(
    trainer: TrainerConfig, stage: Callable[[Any, StageContext], object], config: Any, context: StageContext
) -> Generator[None]:
    """The other ranks of `stage`, which call it as this process does. Nothing for one, or inside a launcher's rank.

    Raises ConfigError where this machine has CUDA devices, but not one for each: a rank that dies early is waited for.
    """
    count = trainer.processes
    if count == 1 or _LAUNCHED in os.environ:
        yield
        return
    devices = 0 if trainer.device == "cpu" else torch.cuda.device_count()
    check(
        devices == 0 or count <= devices,
        f"trainer.processes={count}, but this machine has {devices} CUDA devices; allowed here: 1 to {devices}",
    )
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), _LAUNCHED: str(count)}
    spawn = get_context("spawn")
    ranks = [
        spawn.Process(
            target=_follow,
            args=(place | _rank(number), stage, config, context.work, dict(context.inputs)),
        )  # no daemons: they could not start workers of their own (trainer.num_workers)
        for number in range(1, count)
    ]
    for rank in ranks:
        rank.start()
    added = place | _rank(0)
    os.environ.update(added)
    try:
        yield
        for rank in ranks:
            rank.join()
    finally:
        for name in added:
            os.environ.pop(name, None)
        for rank in ranks:
            rank.kill()
        if dist.is_initialized():
            dist.destroy_process_group()


def _rank(number: int) -> dict[str, str]:
    return {"RANK": str(number), "LOCAL_RANK": str(number)}


def _follow(
    environment: Mapping[str, str],
    stage: Callable[[Any, StageContext], object],
    config: Any,
    work: Path,
    inputs: Mapping[str, Path],
) -> None:
    os.environ.update(environment)
    stage(config, StageContext(work, inputs))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
