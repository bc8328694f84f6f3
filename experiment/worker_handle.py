"""A worker process as the executor sees it: started, given a stage, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiment.secret import Secret
from experiment.stages import StageNode
from experiment.store import Store

ROOT = Path(__file__).resolve().parents[1]
RETIRE_S = 10.0  # for an idle worker to close its simulators
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads slow a shared core down sixty times
    "LP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(eq=False)
class Worker:
    """One child process and what it does now."""

    kind: str
    process: subprocess.Popen[str]
    events: int  # read end of its pipe
    device: str = ""  # of CUDA
    buffer: bytes = b""
    node: StageNode | None = None
    started: float = 0.0
    last_event: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a stage (and has not been told to end)."""
        assert self.process.stdin is not None
        return self.node is None and not self.process.stdin.closed

    def send(self, store: Store, node: StageNode, log: Path) -> None:
        """Start a stage in it."""
        self.node, self.started, self.last_event = node, time.monotonic(), {}
        request = {"store": str(store.root), "spec": node.spec.to_json(), "log": str(log)}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died while idle; its pipe ends too, and the stage is retried
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def retire(self) -> None:
        """Let an idle worker end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """An idle worker gets the time to close what it holds; any other is killed."""
        self.retire()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0 if self.node else RETIRE_S)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: int) -> None:
        """Signal the worker, or with SIGKILL its whole session."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


def worker_environment() -> dict[str, str]:
    """The driver's environment, with the thread settings of single-threaded stages and this checkout importable."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path}


def start_worker(kind: str, device: str, secret: Secret) -> Worker:
    """A child for stages of one kind, in a session of its own, that dies with this one. device: of CUDA; "": any."""
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "experiment.cli", "worker"]
    command += ["--kind", kind, "--events-fd", str(writer), "--parent", str(os.getpid())]
    only = {"CUDA_VISIBLE_DEVICES": device} if device else {}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        pass_fds=(writer,),
        start_new_session=True,
        text=True,
        env={**secret.environment(worker_environment(), kind), **only},
    )
    os.close(writer)
    return Worker(kind, process, reader, device)
