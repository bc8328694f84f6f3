"""One simulator process from the driver's side: its socket, its shared memory, its log, and what it owes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import numpy as np

from configs.choices import Subset
from evaluation.messages import Begin, Chunk, Describe, Setup, frames_size, map_frames

_QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
_CHILD = "import sys; from evaluation.sim_worker import main; sys.exit(main(sys.argv[1:]))"
_ROOT = Path(__file__).resolve().parents[1]

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Problem)\b")

Task = tuple[Subset, int]


@dataclass
class WorkerProcess:
    """One worker and what it is doing."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]
    frames: np.ndarray  # uint8 [slots, R, R, 3], shared with it
    tasks: list[Task | None]  # by slot: whose environment it holds
    ready: bool = False
    episodes: set[int] = field(default_factory=set[int])  # slots with an episode in progress
    begun: int = 0  # episodes since it started
    owed: list[int] = field(default_factory=list[int])  # slots that were asked and have not been answered, in order
    since: float = 0.0  # monotonic time since which it could work for the first of these

    @property
    def busy(self) -> bool:
        """Whether something is to be heard from it."""
        return bool(self.owed) or not self.ready

    def send(self, slot: int, message: Describe | Begin | Chunk) -> None:
        """Ask. It answers in order."""
        if not self.owed:
            self.since = time.monotonic()
        self.owed.append(slot)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead: whoever listens finds out
            self.connection.send((slot, message))

    def end(self, patience_s: float) -> str:
        """Let it end, or kill it after patience_s. Returns how it ended and its last words."""
        self.connection.close()
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        how, words = f"killed by signal {-code}" if code < 0 else f"exit code {code}", self._last_words()
        return f"({how})" + (f": {words}" if words else "")

    def _last_words(self) -> str:
        """The exception that ended it, which may take several lines; else the last line that it wrote."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        first = next((number for number, line in enumerate(lines) if _EXCEPTION.match(line)), len(lines) - 1)
        return " ".join(" ".join(lines[first:]).split())[:300] if lines else ""

    def close(self, patience_s: float) -> None:
        """End it and forget what it said."""
        self.end(patience_s)
        self.log.close()


def start_worker(setup: Setup, factory: str) -> WorkerProcess:
    """A new process. factory: `module:attribute` of what makes environments."""
    ours, theirs = socket.socketpair()
    memory = _anonymous_file(frames_size(setup))
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(theirs.fileno()), str(memory), str(os.getpid()), factory],
        env={**os.environ, **_QUIET, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[theirs.fileno(), memory],
        start_new_session=True,  # Ctrl-C is for the driver
    )
    theirs.close()
    frames = map_frames(memory, setup)
    os.close(memory)
    connection = Connection(ours.detach())
    connection.send(setup)
    return WorkerProcess(process, connection, log, frames, [None] * setup.slots)


def _anonymous_file(size: int) -> int:
    """Descriptor of a file without a name, in memory where the system has such: nothing to clean up after a kill."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
