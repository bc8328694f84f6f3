"""One run on several devices of this machine: this process is rank 0, the others are started here and end with it.

Each has one device and its share of every global batch; only rank 0 reports, writes and is asked to stop. The work
folder is shared, so that all take up the same checkpoint. A rank that dies takes the run with it at once: the others
would wait for its gradients, on CUDA devices for ever.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.checks import check
from configs.model import TrainerConfig
from data_pipeline.contract import StageContext
from data_pipeline.processes import die_with_parent

_LAUNCHED = "WORLD_SIZE"
_LOOK_EVERY_S = 0.5
_GRACE_S = 20.0
"""A rank that failed by itself has found a fault that this process may be about to report, and better."""


@contextmanager
def companions(
    trainer: TrainerConfig, stage: Callable[[Any, StageContext], object], config: Any, context: StageContext
) -> Generator[None]:
    """The other ranks of `stage`, which call it as this process does. Nothing for one, or inside a launcher's rank.

    Where one of them is killed this process is killed as well, so that the driver starts the stage again; where one
    fails, this process ends with 1. Raises ConfigError where this machine has CUDA devices, but not one for each.
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
            args=(os.getpid(), place | _rank(number), stage, config, context.work, dict(context.inputs)),
        )  # no daemons: they could not start workers of their own (trainer.num_workers)
        for number in range(1, count)
    ]
    for rank in ranks:
        rank.start()
    added = place | _rank(0)
    os.environ.update(added)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(ranks, over))
    watch.start()
    try:
        yield
        for rank in ranks:
            rank.join()
    finally:
        over.set()
        watch.join()
        _end_with_the_killed(ranks)
        for name in added:
            os.environ.pop(name, None)
        for rank in ranks:
            rank.kill()
        if dist.is_initialized():
            dist.destroy_process_group()


def _watch(ranks: Sequence[SpawnProcess], over: threading.Event) -> None:
    """Until `over`, end this process after a rank that has died: its main thread may wait inside a collective."""
    while not over.wait(_LOOK_EVERY_S):
        _end_with_the_killed(ranks)
        failed = [number for number, rank in enumerate(ranks, 1) if rank.exitcode]
        if failed and not over.wait(_GRACE_S):
            print(f"process {failed[0]} of {len(ranks) + 1} failed; it says why above", file=sys.stderr, flush=True)
            os._exit(1)


def _end_with_the_killed(ranks: Sequence[SpawnProcess]) -> None:
    """Where a rank was killed, be killed too: a driver goes on from the checkpoint then, as after any such end."""
    for number, rank in enumerate(ranks, 1):
        if rank.exitcode is not None and rank.exitcode < 0:
            name = signal.Signals(-rank.exitcode).name
            print(f"process {number} of {len(ranks) + 1} was killed by {name}", file=sys.stderr, flush=True)
            for other in ranks:
                other.kill()
            os.kill(os.getpid(), signal.SIGKILL)


def _rank(number: int) -> dict[str, str]:
    return {"RANK": str(number), "LOCAL_RANK": str(number)}


def _follow(
    parent: int,
    environment: Mapping[str, str],
    stage: Callable[[Any, StageContext], object],
    config: Any,
    work: Path,
    inputs: Mapping[str, Path],
) -> None:
    die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # rank 0 is asked, and tells when to stop
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(environment)
    stage(config, StageContext(work, inputs))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
