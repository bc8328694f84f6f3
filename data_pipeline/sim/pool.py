"""Run simulator jobs one after the other here, or in parallel in spawned processes that die with their parent.

A job knows whether it is done (its result lies in a file), so that an interrupted run goes on where it stopped and
the number of workers cannot change anything.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.processes import die_with_parent

_ATTEMPTS = 3


class SimJob(Protocol):
    """One piece of work; small enough to be pickled."""

    @property
    def done(self) -> bool:
        """Whether its result exists."""
        ...


class SimWorker(Protocol):
    """Does jobs; keeps what is expensive between them."""

    def run(self, job: Any) -> None:
        """Do one job and store its result."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


Job = TypeVar("Job", bound=SimJob)


def run_jobs(
    jobs: Sequence[Job],
    make_worker: Callable[[], SimWorker],
    workers: int,
    context: StageContext,
    name: Callable[[Job], str],
) -> None:
    """Do what is not done yet; report and heed a stop after every job.

    `make_worker` is picklable; `name` tells jobs apart. Raises Interrupted on a stop, EnvironmentProblem when workers
    keep dying of a job.
    """
    left = [job for job in jobs if not job.done]
    context.report(len(jobs) - len(left), len(jobs), "")
    context.checkpoint()
    parallel = workers > 1 and len(left) > 1
    with contextlib.closing(
        _run_in_pool(left, make_worker, workers, name) if parallel else _run_here(left, make_worker)
    ) as done:
        for finished, job in enumerate(done, len(jobs) - len(left) + 1):
            context.report(finished, len(jobs), name(job))
            context.checkpoint()


def _run_here(jobs: Sequence[Job], make_worker: Callable[[], SimWorker]) -> Generator[Job]:
    if not jobs:
        return
    worker = make_worker()
    try:
        for job in jobs:
            worker.run(job)
            yield job
    finally:
        worker.close()


def _run_in_pool(
    jobs: Sequence[Job], make_worker: Callable[[], SimWorker], workers: int, name: Callable[[Job], str]
) -> Generator[Job]:
    """Yields jobs as they finish. Each worker has a share of neighbours, which mostly need the same environment.

    One whose share is finished takes the last job of the largest share left. One that dies is replaced, and its job
    tried again.
    """
    count = min(workers, len(jobs))
    shares = [list(jobs[i * len(jobs) // count : (i + 1) * len(jobs) // count]) for i in range(count)]
    processes = [_Process(make_worker) for _ in shares]
    running: dict[Future[None], tuple[int, Job]] = {}
    deaths: Counter[str] = Counter()

    def start(index: int) -> None:
        if shares[index]:
            job = shares[index].pop(0)
        elif longest := max(shares, key=len):
            job = longest.pop()
        else:
            return
        running[processes[index].submit(job)] = index, job

    try:
        for index in range(count):
            start(index)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index, job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    deaths[name(job)] += 1
                    _check_deaths(deaths[name(job)], name(job))
                    shares[index].insert(0, job)
                else:
                    future.result()
                    yield job
                start(index)
    finally:
        for process in processes:
            process.close()


def _check_deaths(deaths: int, job: str) -> None:
    if deaths == _ATTEMPTS:
        raise EnvironmentProblem(
            f"the simulator worker died in each of {_ATTEMPTS} attempts at {job}; check memory and software GL with "
            "`nora-ecot doctor`, or use fewer workers. The same command goes on with what is left"
        )


class _Process:
    """A worker process, replaced when it is found dead."""

    def __init__(self, make_worker: Callable[[], SimWorker]) -> None:
        self._make_worker = make_worker
        self._pool = self._new()

    def submit(self, job: SimJob) -> Future[None]:
        """Do a job. The result is a BrokenProcessPool where the process dies of it."""
        try:
            return self._pool.submit(_run_in_worker, job)
        except BrokenProcessPool:  # of the job before, or between two
            self._pool = self._new()
            return self._pool.submit(_run_in_worker, job)

    def close(self) -> None:
        """Wait for its job, if any, and let the process end."""
        self._pool.shutdown()

    def _new(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a forked GL context is broken
        return ProcessPoolExecutor(1, spawn, _start_worker, (self._make_worker, os.getpid()))


_worker: SimWorker | None = None  # of a worker process, made by its first job: a job's errors reach the parent
_make: Callable[[], SimWorker]


def _start_worker(make_worker: Callable[[], SimWorker], parent: int) -> None:
    global _make  # a process pool offers no other place for a worker's state
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    _make = make_worker


def _run_in_worker(job: SimJob) -> None:
    global _worker
    if _worker is None:
        _worker = _make()
    _worker.run(job)
