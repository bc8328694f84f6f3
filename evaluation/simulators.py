"""A pool of simulator processes, as the driver sees it: send a message, wait for answers, survive their deaths."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from configs.schema import EnvConfig, Subset
from data_pipeline.contract import EnvironmentProblem
from evaluation.sim_worker import Begin, Chunk, Describe, Description, Ready, Unusable, View

LIBERO = "data_pipeline.sim.environment:LiberoEnv"
START_TIMEOUT_S = 300.0
"""For imports and the first assets; on a busy machine both take tens of seconds."""
MAX_DESCRIBE_ATTEMPTS = 3

_QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
_CHILD = "import sys; from evaluation.sim_worker import main; sys.exit(main(sys.argv[1:]))"
_ROOT = Path(__file__).resolve().parents[1]
_kept: dict[str, tuple[tuple[int, EnvConfig, str], SimulatorPool]] = {}


@dataclass(frozen=True)
class Broken:
    """A worker died or did not answer; a new one is in its place."""

    reason: str


@dataclass
class Simulator:
    """One worker process and what it is doing."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]
    ready: bool = False
    asked_at: float | None = None  # monotonic time of the unanswered message, None when idle
    task: tuple[Subset, int] | None = None  # whose environment it holds

    @property
    def idle(self) -> bool:
        """Nothing asked, nothing owed."""
        return self.asked_at is None

    def last_words(self) -> str:
        """The last line it wrote."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


class SimulatorPool:
    """`workers` simulator processes for one EnvConfig. Close it, or use it as a context manager.

    A worker that dies or exceeds `timeout_s` on one message is replaced and reported as `Broken`. Raises
    EnvironmentProblem when a worker cannot start at all: that is the machine's fault, not an episode's.
    """

    def __init__(self, workers: int, env: EnvConfig, factory: str = LIBERO, timeout_s: float = 120.0) -> None:
        self.env = env
        self.factory = factory
        self.timeout_s = timeout_s
        self.simulators = [self._spawn() for _ in range(workers)]

    def __enter__(self) -> SimulatorPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets, which ends the workers; kill those that take longer than two seconds."""
        for simulator in self.simulators:
            simulator.connection.close()
        for simulator in self.simulators:
            _end(simulator.process, patience_s=2.0)
            simulator.log.close()
        self.simulators.clear()

    def describe(self, subset: Subset, task_id: int) -> Description:
        """Environment of one task, built by the first worker; waits for it. A worker that dies is asked again."""
        index, attempts = self._place(0), 1
        self._send(index, Describe(subset, task_id))
        while True:
            for who, answer in self.poll(1.0):
                if isinstance(answer, Description):
                    self.simulators[index].task = (subset, task_id)
                    return answer
                if who == index and isinstance(answer, Broken):
                    if attempts == MAX_DESCRIBE_ATTEMPTS:
                        raise EnvironmentProblem(
                            f"the simulator could not build task {task_id} of {subset.value}: {answer.reason}"
                        )
                    attempts += 1
                    self._send(index, Describe(subset, task_id))

    def idle(self) -> list[int]:
        """Indices of workers with nothing to do."""
        return [i for i, simulator in enumerate(self.simulators) if simulator.idle]

    def begin(self, index: int, message: Begin) -> None:
        """Start an episode on an idle worker."""
        index = self._place(index)
        self.simulators[index].task = (message.request.subset, message.request.key.task_id)
        self._send(index, message)

    def execute(self, index: int, chunk: Chunk) -> None:
        """Send the next actions of the episode on this worker."""
        self._send(index, chunk)

    def poll(self, timeout_s: float) -> list[tuple[int, View | Description | Broken]]:
        """Answers that arrived within timeout_s, with the worker's index."""
        owed = [s.connection for s in self.simulators if not s.idle or not s.ready]
        arrived = wait(owed, timeout_s) if owed else []
        answers: list[tuple[int, View | Description | Broken]] = []
        for index, simulator in enumerate(self.simulators):
            answer = self._receive(index) if simulator.connection in arrived else self._overdue(index)
            if answer is not None:
                answers.append((index, answer))
        return answers

    def _receive(self, index: int) -> View | Description | Broken | None:
        simulator = self.simulators[index]
        try:
            message = simulator.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._replace(index, "died")
        if isinstance(message, Ready):
            simulator.ready = True
            if simulator.asked_at is not None:
                simulator.asked_at = time.monotonic()  # the clock of the message starts when it can be read
            return None
        if isinstance(message, Unusable):
            raise EnvironmentProblem(message.message)
        simulator.asked_at = None
        return message

    def _overdue(self, index: int) -> Broken | None:
        simulator = self.simulators[index]
        limit = self.timeout_s if simulator.ready else START_TIMEOUT_S
        if simulator.asked_at is None or time.monotonic() - simulator.asked_at < limit:
            return None
        return self._replace(index, f"gave no answer for {limit:g} s")

    def _send(self, index: int, message: Describe | Begin | Chunk) -> None:
        simulator = self.simulators[index]
        simulator.asked_at = time.monotonic()
        try:
            simulator.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # it is dead: poll() finds the closed socket and reports it

    def _place(self, index: int) -> int:
        """Make sure an idle worker is alive: one kept since an earlier stage may have gone."""
        simulator = self.simulators[index]
        if simulator.ready and simulator.process.poll() is not None:
            self._bury(simulator)
            simulator.log.close()
            self.simulators[index] = self._spawn()
        return index

    def _replace(self, index: int, what: str) -> Broken:
        simulator = self.simulators[index]
        code = self._bury(simulator)
        words = simulator.last_words()
        simulator.log.close()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        reason = f"simulator {what} ({how})" + (f": {words}" if words else "")
        if not simulator.ready:
            raise EnvironmentProblem(
                f"the {reason} while starting. Try `python -c 'import {self.factory.partition(':')[0]}'`: "
                "software GL (libegl1 libegl-mesa0 libgl1-mesa-dri) and the packages of uv.lock must be installed."
            )
        self.simulators[index] = self._spawn()
        return Broken(reason)

    def _bury(self, simulator: Simulator) -> int:
        simulator.connection.close()
        return _end(simulator.process, patience_s=0.5)

    def _spawn(self) -> Simulator:
        ours, theirs = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        arguments = [str(theirs.fileno()), str(os.getpid()), self.factory]
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *arguments],
            env={**os.environ, **_QUIET, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the driver
        )
        theirs.close()
        connection = Connection(ours.detach())
        connection.send(self.env)
        return Simulator(process, connection, log)


def _end(process: subprocess.Popen[bytes], patience_s: float) -> int:
    """Wait, then kill. Returns the exit code."""
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def shared_pool(workers: int, env: EnvConfig, factory: str = LIBERO) -> Generator[SimulatorPool]:
    """A pool that later stages of this process find again: starting one costs seconds of each evaluation.

    One is kept at a time; it goes with the process. After an exception it is closed, as episodes may be in progress.
    """
    wanted = (workers, env, factory)
    kept = _kept.pop("pool", None)
    if kept is not None and kept[0] != wanted:
        kept[1].close()
        kept = None
    pool = kept[1] if kept is not None else SimulatorPool(workers, env, factory)
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    _kept["pool"] = (wanted, pool)


def release_pool() -> None:
    """Close the pool that `shared_pool` has kept, if any."""
    kept = _kept.pop("pool", None)
    if kept is not None:
        kept[1].close()


def preferred(pool: SimulatorPool, index: int, wanted: Sequence[tuple[Subset, int]]) -> int:
    """Position in `wanted` (subset, task) of what this worker should run next.

    The task whose environment it holds; else one that no other worker holds; else the first.
    """
    own = pool.simulators[index].task
    held = {simulator.task for simulator in pool.simulators}
    for good in (lambda task: task == own, lambda task: task not in held):
        found = next((position for position, task in enumerate(wanted) if good(task)), None)
        if found is not None:
            return found
    return 0
