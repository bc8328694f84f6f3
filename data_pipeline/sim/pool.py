"""Run simulator jobs one after the other here, or in parallel in spawned processes that die with their parent.

A job knows whether it is done (its result lies in a file), so that an interrupted run goes on where it stopped and
the number of workers cannot change anything.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.processes import die_with_parent

_POOL_ATTEMPTS = 3


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

    `make_worker` is picklable. Raises Interrupted on a stop, EnvironmentProblem when workers keep dying.
    """
    left = [job for job in jobs if not job.done]
    context.report(len(jobs) - len(left), len(jobs), "")
    context.checkpoint()
    parallel = workers > 1 and len(left) > 1
    with contextlib.closing(
        _run_in_pool(left, make_worker, workers) if parallel else _run_here(left, make_worker)
    ) as done:
        for job in done:
            context.report(sum(j.done for j in jobs), len(jobs), name(job))
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


def _run_in_pool(jobs: Sequence[Job], make_worker: Callable[[], SimWorker], workers: int) -> Generator[Job]:
    """Yields jobs as they finish. A worker that dies takes the pool along: start again with what is left."""
    in_vain = 0  # pools that died one after the other without finishing a job
    while left := [job for job in jobs if not job.done]:
        spawn = multiprocessing.get_context("spawn")  # a forked GL context is broken
        pool = ProcessPoolExecutor(min(workers, len(left)), spawn, _start_worker, (make_worker, os.getpid()))
        in_vain += 1
        try:
            futures = {pool.submit(_run_in_worker, job): job for job in left}
            for future in as_completed(futures):
                future.result()
                in_vain = 0
                yield futures[future]
        except BrokenProcessPool as error:
            if in_vain == _POOL_ATTEMPTS:
                raise EnvironmentProblem(
                    f"simulator workers died {_POOL_ATTEMPTS} times in a row ({error}), {len(left)} jobs are left; "
                    "check memory and software GL with `nora-ecot doctor`, or use fewer workers"
                ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: SimWorker | None = None  # of a worker process, set once by its initializer


def _start_worker(make_worker: Callable[[], SimWorker], parent: int) -> None:
    global _worker  # a process pool offers no other place for a worker's state
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    _worker = make_worker()


def _run_in_worker(job: SimJob) -> None:
    assert _worker is not None
    _worker.run(job)
