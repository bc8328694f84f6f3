"""Stage `demos`: demonstrations by the scripted expert, in the official HDF5 layout.

A demonstration depends on (subset, task, demo number, seed) alone. Each finished one is a file of its own in the work
folder until all are there; failed attempts are listed and never written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import EpisodeId, StageContext, StageFailed
from data_pipeline.demo_outcomes import (
    Outcome,
    summarise,
)
from data_pipeline.libero_utils import task_names
from data_pipeline.sim.demo_files import assemble, hand_positions
from data_pipeline.sim.demonstration import make_demo
from data_pipeline.sim.expert.manner import USUAL, Manner
from data_pipeline.sim.pool import run_jobs
from data_pipeline.whole_files import is_whole_json, write_json

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

NOISE_LEVELS = (1.0, 0.625, 0.25, 1.0, 0.625, 0.25, 0.0)
"""Of seven demonstrations with noise in transit, what share of it each has; the last has none."""
HOPELESS_AFTER = 3
"""A task none of whose first demonstrations can be made is given up."""


@dataclass(frozen=True)
class DemoJob:
    """One demonstration to be made."""

    episode: EpisodeId
    seed: int  # the study's
    part: Path  # its HDF5 file; the outcome beside it is written last and says that it is done
    env: EnvConfig
    manner: Manner = USUAL  # of all: noise at its most

    @property
    def own_manner(self) -> Manner:
        """Of this demonstration."""
        share = NOISE_LEVELS[self.episode.demo % len(NOISE_LEVELS)]
        return replace(self.manner, noise=self.manner.noise * share)

    @property
    def outcome_file(self) -> Path:
        """Exists only when the job is finished."""
        return self.part.with_suffix(".json")

    @property
    def done(self) -> bool:
        """Whether an earlier attempt of the stage finished it."""
        return is_whole_json(self.outcome_file)

    def finished(self) -> Finished:
        """What an earlier or the present attempt of the stage stored."""
        values = json.loads(self.outcome_file.read_text(encoding="utf-8"))
        return Finished(Outcome.load(values["outcome"]), float(values["seconds"]), self)


@dataclass(frozen=True)
class Finished:
    """A job that is done."""

    outcome: Outcome
    seconds: float  # that it took, differs from run to run
    job: DemoJob


class DemoMaker:
    """Does demonstration jobs; keeps the environment of the last task."""

    def __init__(self) -> None:
        self._key: tuple[int, EnvConfig] | None = None
        self._env: LiberoEnv | None = None

    def run(self, job: DemoJob) -> None:
        """Make one demonstration and store it, then its outcome. Of a hopeless task no more are tried."""
        job.part.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        hopeless = is_hopeless(job.part.parent)
        outcome = (
            Outcome()
            if hopeless
            else make_demo(self._environment(job), job.episode, job.seed, job.part, job.own_manner)
        )
        write_json(job.outcome_file, {"outcome": asdict(outcome), "seconds": time.monotonic() - started})

    def close(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _environment(self, job: DemoJob) -> LiberoEnv:
        from data_pipeline.sim.environment import LiberoEnv  # seconds: only where it is used

        key = (job.episode.task_id, job.env)
        if self._env is None or self._key != key:
            self.close()
            self._env, self._key = LiberoEnv(job.episode.subset, job.episode.task_id, job.env), key
        return self._env


def run_demos(config: DemosSlice, context: StageContext) -> list[str]:
    """Stage `demos`: one file per task and demos.json. Resumes after the last finished demonstration.

    Remarks: seconds of work per task, and with how many workers. A task with fewer demonstrations than wanted is told
    in demos.json. Raises StageFailed for tasks that the expert cannot do, after the others are made; the same command
    tries those tasks again.
    """
    jobs = demo_jobs(config, context.work / "parts")
    run_jobs(jobs, DemoMaker, config.workers, context, lambda job: str(job.episode))
    names = task_names(config.subset)
    tasks = {task: [job.finished() for job in jobs if job.episode.task_id == task] for task in config.tasks}
    context.remarks["workers"] = config.workers
    context.remarks["busy_s"] = {
        names[task]: round(sum(done.seconds for done in own), 2) for task, own in tasks.items()
    }
    summaries = {task: _summary(task, own) for task, own in tasks.items()}
    told = {"subset": config.subset.value, "seed": config.seed, "tasks": {names[t]: s for t, s in summaries.items()}}
    write_json(context.work / "demos.json", told)
    _refuse_hopeless(config, tasks, summaries)
    files = [assemble(config.subset, t, _parts(own), config.env.resolution, context.work) for t, own in tasks.items()]
    return [*files, "demos.json"]


def demo_jobs(config: DemosSlice, parts: Path) -> list[DemoJob]:
    """One job per demonstration, in order."""
    manner = Manner(config.transit_noise, config.style_spread)
    return [
        DemoJob(
            EpisodeId(config.subset, task, demo),
            config.seed,
            parts / f"{task:02d}" / f"{demo:04d}.hdf5",
            config.env,
            manner,
        )
        for task in config.tasks
        for demo in range(config.episodes_per_task)
    ]


def is_hopeless(folder: Path) -> bool:
    """Whether the first demonstrations of the task that has its parts there were all tried in vain."""
    first = [folder / f"{demo:04d}.json" for demo in range(HOPELESS_AFTER)]
    return all(file.exists() for file in first) and not any(file.with_suffix(".hdf5").exists() for file in first)


def _parts(finished: Sequence[Finished]) -> dict[int, Path]:
    return {done.job.episode.demo: done.job.part for done in finished if done.outcome.success}


def _summary(task: int, finished: Sequence[Finished]) -> dict[str, Any]:
    hands = [hand_positions(part) for part in _parts(finished).values()]
    return summarise(task, {done.job.episode.demo: done.outcome for done in finished}, hands)


def _refuse_hopeless(
    config: DemosSlice, tasks: Mapping[int, Sequence[Finished]], summaries: Mapping[int, Mapping[str, Any]]
) -> None:
    """Raise for tasks that cannot be done, and forget that they were tried."""
    lost = [t for t, own in tasks.items() if not summaries[t]["made"] or is_hopeless(own[0].job.part.parent)]
    if not lost:
        return
    for done in (done for task in lost for done in tasks[task] if not done.outcome.success):
        done.job.outcome_file.unlink()
    subset, names = config.subset.value, task_names(config.subset)
    told = "; ".join(f"task {task} ({names[task]}): {_reasons(summaries[task])}" for task in lost)
    others = sum(summary["made"] for task, summary in summaries.items() if task not in lost)
    rest = ",".join(str(task) for task in config.tasks if task not in lost)
    raise StageFailed(
        f"the expert cannot do {len(lost)} of {len(config.tasks)} tasks of {subset}: {told}. Leave them out with "
        f"'data.tasks.{subset}=[{rest}]', or use data.source=official. The same command tries them again and keeps the "
        f"{others} demonstrations of the other tasks"
    )


def _reasons(summary: Mapping[str, Any]) -> str:
    ordered = sorted(summary["failure_reasons"].items(), key=lambda pair: -pair[1])
    return f"{summary['failed_attempts']} attempts failed, {', '.join(f'{n} x {reason}' for reason, n in ordered)}"
