"""A pool of simulator processes, as the driver sees it: send a message, wait for answers, survive their deaths.

Each process holds several environments (`slots`); a place for one episode is a seat. A process answers its seats in
the order they were asked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

from configs.choices import Subset
from configs.data import EnvConfig
from configs.schema import EvalConfig
from data_pipeline.contract import EnvironmentProblem
from evaluation.messages import Begin, Chunk, Describe, Description, Failed, Ready, Setup, Unusable, View
from evaluation.worker_process import Task, WorkerProcess, start_worker

LIBERO = "data_pipeline.sim.environment:LiberoEnv"
START_TIMEOUT_S = 300.0
"""For imports and the first assets; on a busy machine both take tens of seconds."""
MAX_DESCRIBE_ATTEMPTS = 3

_kept: dict[str, tuple[tuple[object, ...], SimulatorPool]] = {}


@dataclass(frozen=True)
class Broken:
    """The simulator failed this seat's episode. If its process died, a new one is in its place."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The seat's episode went down with its process, which the episode of another seat had broken."""


Answer = View | Description | Broken | Lost


class SimulatorPool:
    """`workers` simulator processes with `slots` environments each. Close it, or use it as a context manager.

    A worker that dies or exceeds `timeout_s` on one message is replaced: the seat it worked for is reported as
    `Broken`, its other seats as `Lost`. After `recycle` episodes a worker is replaced too (0: never): what leaks in
    MuJoCo, GL or Python goes with it. Raises EnvironmentProblem when a worker cannot start at all: that is the
    machine's fault, not an episode's.
    """

    def __init__(
        self,
        workers: int,
        env: EnvConfig,
        factory: str = LIBERO,
        timeout_s: float = 120.0,
        *,
        slots: int = 1,
        recycle: int = 0,
    ) -> None:
        self.factory = factory
        self.timeout_s = timeout_s
        self.recycle = recycle
        self._setup = Setup(env, slots)
        self.workers = [self._start() for _ in range(workers)]

    def __enter__(self) -> SimulatorPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets, which ends the workers; kill those that take longer than two seconds."""
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.close(patience_s=2.0)
        self.workers.clear()

    def describe(self, subset: Subset, task_id: int) -> Description:
        """Environment of one task, built at the first seat; waits for it. A worker that dies is asked again."""
        reason = ""
        for _ in range(MAX_DESCRIBE_ATTEMPTS):
            self._ask(0, Describe(subset, task_id), (subset, task_id))
            answer = next(answer for seat, answer in self._listen() if seat == 0)
            if isinstance(answer, Description):
                return answer
            assert isinstance(answer, Broken)
            reason = answer.reason
        raise EnvironmentProblem(f"the simulator could not build task {task_id} of {subset.value}: {reason}")

    @property
    def starving(self) -> bool:
        """Whether a worker has episodes and nothing to do for them."""
        return any(worker.episodes and not worker.owed for worker in self.workers)

    def free(self) -> list[int]:
        """Seats without an episode, those of the emptiest workers first. A worker to be replaced has none."""
        due = self.recycle or float("inf")
        seats = [
            (len(worker.episodes), slot * len(self.workers) + index)
            for index, worker in enumerate(self.workers)
            for slot in range(self._setup.slots)
            if slot not in worker.episodes and worker.begun < due
        ]
        return [seat for _, seat in sorted(seats)]

    def preferred(self, seat: int, wanted: Sequence[Task]) -> int:
        """Position in `wanted` of what this seat should run next.

        The task whose environment it holds; else one that no other seat holds; else the first.
        """
        index, slot = self._place(seat)
        own = self.workers[index].tasks[slot]
        held = {task for worker in self.workers for task in worker.tasks}
        for good in (lambda task: task == own, lambda task: task not in held):
            found = next((position for position, task in enumerate(wanted) if good(task)), None)
            if found is not None:
                return found
        return 0

    def begin(self, seat: int, message: Begin) -> None:
        """Start an episode at a free seat."""
        index, slot = self._place(seat)
        self._ask(seat, message, (message.request.subset, message.request.key.task_id))
        self.workers[index].episodes.add(slot)
        self.workers[index].begun += 1

    def execute(self, seat: int, chunk: Chunk) -> None:
        """Send the next actions of the episode at this seat."""
        index, slot = self._place(seat)
        self.workers[index].send(slot, chunk)

    def leave(self, seat: int) -> None:
        """The episode at this seat has ended."""
        index, slot = self._place(seat)
        worker = self.workers[index]
        worker.episodes.discard(slot)
        if self.recycle and worker.begun >= self.recycle and not worker.episodes:
            self._restart(index)

    def poll(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """All answers that have arrived, with their seats; waits up to timeout_s for the first."""
        busy = [worker.connection for worker in self.workers if worker.busy]
        arrived = wait(busy, timeout_s) if busy else []
        answers: list[tuple[int, Answer]] = []
        for index, worker in enumerate(self.workers):
            limit_s = self.timeout_s if worker.ready else START_TIMEOUT_S
            if worker.connection in arrived:
                answers += self._received(index)
            elif worker.owed and time.monotonic() - worker.since > limit_s:
                answers += self._replace(index, f"gave no answer for {limit_s:g} s")
        return answers

    def _place(self, seat: int) -> tuple[int, int]:
        """Worker and slot: neighbouring seats are different workers'."""
        slot, index = divmod(seat, len(self.workers))
        return index, slot

    def _ask(self, seat: int, message: Describe | Begin, task: Task) -> None:
        """Send to a free seat, which may be that of a worker gone since an earlier stage."""
        index, slot = self._place(seat)
        worker = self.workers[index]
        if worker.ready and not worker.episodes and worker.process.poll() is not None:
            worker = self._restart(index)
        worker.tasks[slot] = task
        worker.send(slot, message)

    def _listen(self) -> Iterator[tuple[int, Answer]]:
        while True:
            yield from self.poll(1.0)

    def _received(self, index: int) -> Iterator[tuple[int, Answer]]:
        """What one worker has sent."""
        worker = self.workers[index]
        try:
            while worker.busy and worker.connection.poll():
                message: View | Description | Failed | Ready | Unusable = worker.connection.recv()
                worker.since = time.monotonic()
                if isinstance(message, Unusable):
                    raise EnvironmentProblem(message.message)
                if isinstance(message, Ready):
                    worker.ready = True
                else:
                    slot = worker.owed.pop(0)
                    yield slot * len(self.workers) + index, _unpacked(message, worker, slot)
        except (EOFError, ConnectionResetError):
            yield from self._replace(index, "died")

    def _replace(self, index: int, what: str) -> Iterator[tuple[int, Answer]]:
        """A new worker for a broken one. Blames the seat it worked for: the first one owed an answer."""
        worker = self.workers[index]
        reason = f"simulator {what} {worker.end(patience_s=0.5)}"
        if not worker.ready:
            raise EnvironmentProblem(
                f"the {reason} while starting. Try `python -c 'import {self.factory.partition(':')[0]}'`: "
                "software GL (libegl1 libegl-mesa0 libgl1-mesa-dri) and the packages of uv.lock must be installed."
            )
        self._restart(index)
        blamed = worker.owed[0]
        yield blamed * len(self.workers) + index, Broken(reason)
        for slot in sorted(worker.episodes - {blamed}):
            yield slot * len(self.workers) + index, Lost()

    def _restart(self, index: int) -> WorkerProcess:
        self.workers[index].close(patience_s=0.5)
        self.workers[index] = self._start()
        return self.workers[index]

    def _start(self) -> WorkerProcess:
        return start_worker(self._setup, self.factory)


def _unpacked(message: View | Description | Failed, worker: WorkerProcess, slot: int) -> Answer:
    """The message with what it leaves behind: the picture in shared memory, the seat of an episode that has ended.

    The seat at once: should the process die in the same moment, that episode is not lost with it.
    """
    if isinstance(message, Failed) or (isinstance(message, View) and message.over):
        worker.episodes.discard(slot)
    if isinstance(message, Failed):
        return Broken(message.reason)
    if isinstance(message, View) and message.drawn:
        return replace(message, image=worker.frames[slot].copy())
    return message


@contextlib.contextmanager
def shared_pool(config: EvalConfig, env: EnvConfig, factory: str = LIBERO) -> Generator[SimulatorPool]:
    """A pool that later stages of this process find again: starting one costs seconds of each evaluation.

    One is kept at a time; it goes with the process. After an exception it is closed, as episodes may be in progress.
    """
    wanted = (config.sim_workers, config.envs_per_worker, config.recycle_episodes, env, factory)
    kept = _kept.pop("pool", None)
    if kept is not None and kept[0] != wanted:
        kept[1].close()
        kept = None
    pool = kept[1] if kept is not None else make_pool(config, env, factory)
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    _kept["pool"] = (wanted, pool)


def make_pool(config: EvalConfig, env: EnvConfig, factory: str = LIBERO) -> SimulatorPool:
    """A pool of the size that the settings ask for."""
    return SimulatorPool(
        config.sim_workers, env, factory, slots=config.envs_per_worker, recycle=config.recycle_episodes
    )


def release_pool() -> None:
    """Close the pool that `shared_pool` has kept, if any."""
    kept = _kept.pop("pool", None)
    if kept is not None:
        kept[1].close()
