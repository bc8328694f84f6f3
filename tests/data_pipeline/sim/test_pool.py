"""Simulator jobs in parallel: who does what, and what happens when a worker dies."""

import os
import time
from pathlib import Path

import pytest

from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.sim.pool import run_jobs


class FileJob:
    def __init__(self, path):
        self.path = path

    @property
    def done(self):
        return self.path.exists()


class Worker:
    """Notes who did the job; the first job of all ends when the others are done."""

    def run(self, job):
        if job.path.name == "0":
            while len(list(job.path.parent.iterdir())) < 5:
                time.sleep(0.01)
        job.path.write_text(f"{os.getpid()} {time.monotonic_ns()}")

    def close(self):
        pass


class DiesOnce(Worker):
    """A worker whose process dies in the middle of the first job it ever does."""

    def run(self, job):
        crashed = job.path.parent / "crashed"
        if not crashed.exists():
            crashed.touch()
            os._exit(1)
        job.path.touch()


class DiesOf2(Worker):
    """A worker that job 2 kills."""

    def run(self, job):
        if job.path.name == "2":
            os._exit(1)
        job.path.touch()


class Unusable(Worker):
    """What a simulator without OpenGL does."""

    def __init__(self):
        raise EnvironmentProblem("no OpenGL here")


def run(folder: Path, worker, count):
    jobs = [FileJob(folder / str(i)) for i in range(count)]
    run_jobs(jobs, worker, 2, StageContext(folder, {}), lambda job: job.path.name)
    return jobs


def test_each_worker_has_a_share_and_then_helps(tmp_path):
    jobs = run(tmp_path, Worker, 6)
    notes = [job.path.read_text().split() for job in jobs]
    assert len({pid for pid, _ in notes}) == 2
    helper = sorted((int(when), i) for i, (pid, when) in enumerate(notes) if pid != notes[0][0])
    assert [i for _, i in helper] == [3, 4, 5, 2, 1]


def test_a_pool_survives_the_death_of_a_worker(tmp_path):
    assert all(job.done for job in run(tmp_path, DiesOnce, 3))
    assert (tmp_path / "crashed").exists()


def test_a_worker_that_cannot_start_says_why(tmp_path):
    with pytest.raises(EnvironmentProblem, match="no OpenGL here"):
        run(tmp_path, Unusable, 2)


@pytest.mark.slow
def test_a_job_that_kills_its_worker_every_time_ends_the_stage_and_keeps_what_is_done(tmp_path):
    with pytest.raises(EnvironmentProblem, match="in each of 3 attempts at 2;"):
        run(tmp_path, DiesOf2, 3)
    assert (tmp_path / "0").exists()
