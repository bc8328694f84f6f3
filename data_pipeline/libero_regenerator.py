"""Replay demonstrations in the simulator, keep the clean ones, draw them at the wanted resolution.

In: HDF5 files of one subset (LIBERO's own or ours). Out: the same files without no-op actions, without demonstrations
that fail when replayed, and ``libero_<suite>_metainfo.json`` that says what became of each. Demonstrations keep their
numbers. What happens to one demonstration is in `replay`; here are all of them, in parallel and resumable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.checks import ConfigError
from configs.choices import Subset
from configs.data import EnvConfig
from configs.slices import RegenerateSlice
from data_pipeline.contract import EnvironmentProblem, EpisodeId, StageContext
from data_pipeline.hdf5_layout import DemoWriter, TaskInfo
from data_pipeline.libero_utils import demo_file
from data_pipeline.metainfo import Verdict, metainfo_name, write_metainfo
from data_pipeline.raw_loader import Hdf5Source, read_replay, refuse
from data_pipeline.replay import regenerate_demo
from data_pipeline.sim.pool import run_jobs
from data_pipeline.whole_files import is_whole_json, write_json

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

MakeEnv = Callable[[Subset, int, EnvConfig], "LiberoEnv"]


@dataclass(frozen=True)
class Job:
    """One demonstration of the stage; small enough to cross to a worker."""

    episode: EpisodeId
    source: Path
    part: Path  # its HDF5 file in the work folder; part.json beside it is the verdict and says that it is done
    env: EnvConfig

    @property
    def verdict_file(self) -> Path:
        """Exists only when the demonstration is finished."""
        return self.part.with_suffix(".json")

    @property
    def done(self) -> bool:
        """Whether an earlier attempt finished it."""
        return is_whole_json(self.verdict_file)

    def verdict(self) -> Verdict:
        """The verdict on a finished demonstration."""
        return Verdict(**json.loads(self.verdict_file.read_text(encoding="utf-8")))


class Regenerator:
    """Does jobs; keeps the environment of the last task, as building one takes seconds."""

    def __init__(self, make_env: MakeEnv) -> None:
        self._make_env = make_env
        self._task: int | None = None
        self._env: LiberoEnv | None = None

    def run(self, job: Job) -> None:
        """Regenerate one demonstration and store it and the verdict."""
        job.part.parent.mkdir(parents=True, exist_ok=True)
        verdict = regenerate_demo(self._environment(job), job.source, job.episode.demo, job.part)
        write_json(job.verdict_file, asdict(verdict))

    def close(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _environment(self, job: Job) -> LiberoEnv:
        if self._env is None or self._task != job.episode.task_id:
            self.close()
            self._env = self._make_env(job.episode.subset, job.episode.task_id, job.env)
            self._task = job.episode.task_id
        return self._env


def _at_resolution(info: TaskInfo, resolution: int) -> TaskInfo:
    """The task's attributes with the cameras' new size, where the source tells one."""
    args = dict(info.env_args)
    if isinstance(args.get("env_kwargs"), dict):
        args["env_kwargs"] = args["env_kwargs"] | {"camera_heights": resolution, "camera_widths": resolution}
    return replace(info, env_args=args)


def assemble(
    jobs: list[Job], bad: Mapping[EpisodeId, str], source: Hdf5Source, config: RegenerateSlice, folder: Path
) -> list[str]:
    """Put finished demonstrations together: one file per task, and the metainfo. Returns their names.

    bad: the reason for each that was skipped. Raises EnvironmentProblem where a task has none left, and forgets that it
    was replayed: after a repair the same command tries it again.
    """
    outputs, metainfo = [], {}
    for task in source.tasks:
        info = source.info(task)
        done = [job for job in jobs if job.episode.task_id == task]
        verdicts = {job.episode: job.verdict() for job in done}
        verdicts |= {episode: Verdict.of_bad(reason) for episode, reason in bad.items() if episode.task_id == task}
        kept = [job for job in done if verdicts[job.episode].dropped is None]
        if not kept:
            reasons = sorted({str(v.dropped) for v in verdicts.values()})
            for job in done:
                job.verdict_file.unlink()
            raise EnvironmentProblem(
                f"{source.path(task)}: none of {len(verdicts)} demonstrations survived the replay "
                f"({'; '.join(reasons)}). The simulator or the assets are not those they were made with; "
                "check with `nora-ecot doctor`. The same command replays them again"
            )
        target = demo_file(folder, config.subset, task)
        with DemoWriter(target, _at_resolution(info, config.env.resolution)) as writer:
            for job in kept:
                writer.add_file(job.episode.demo, job.part)
        outputs.append(target.name)
        metainfo[info.task_name] = {f"demo_{episode.demo}": verdict for episode, verdict in sorted(verdicts.items())}
    name = metainfo_name(config.subset)
    write_metainfo(folder / name, metainfo)
    return [*outputs, name]


def regenerate(config: RegenerateSlice, context: StageContext, make_env: MakeEnv) -> list[str]:
    """The stage with the environment passed in (a picklable callable).

    Raises ConfigError for the first demonstration that cannot be used, before any is replayed; with
    `config.skip_bad` such demonstrations are left out and listed.
    """
    source = Hdf5Source(context.inputs["demos"], config.subset)
    faults = dict(source.faults())
    faults |= {episode: problem for episode in source.list() if (problem := _no_replay(source, episode))}
    if not config.skip_bad:
        refuse(list(faults.values()), len(source.list()))
    bad = {episode: str(problem).replace(f"{source.folder}/", "") for episode, problem in faults.items()}
    parts = context.work / "parts"
    jobs = [
        Job(e, source.path(e.task_id), parts / f"{e.task_id:02d}" / f"{e.demo:04d}.hdf5", config.env)
        for e in source.list()
        if e not in bad
    ]
    run_jobs(jobs, partial(Regenerator, make_env), config.workers, context, lambda job: str(job.episode))
    return assemble(jobs, bad, source, config, context.work)


def _no_replay(source: Hdf5Source, episode: EpisodeId) -> ConfigError | None:
    try:
        read_replay(source.path(episode.task_id), episode.demo)
    except ConfigError as problem:
        return problem
    return None


def make_libero_env(subset: Subset, task_id: int, config: EnvConfig) -> LiberoEnv:
    """A LiberoEnv; the simulator is imported here and not before."""
    from data_pipeline.sim.environment import LiberoEnv

    return LiberoEnv(subset, task_id, config)


def run_regenerate(config: RegenerateSlice, context: StageContext) -> list[str]:
    """Stage `regenerate`. Input `demos`. Resumes after the last finished demonstration."""
    return regenerate(config, context, make_libero_env)
