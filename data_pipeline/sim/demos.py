"""Stage `demos`: demonstrations by the scripted expert, in the official HDF5 layout.

A demonstration depends on (subset, task, demo number, seed) alone: objects are placed by sampling the task's BDDL
regions and the arm starts with the noise that LIBERO's official initial states have. It never starts from one of
those, which are for evaluation, nor nearer to one than they are to each other. Each finished demonstration is a file
of its own in the work folder until all are there; failed attempts are listed and never written.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import CAMERAS, EpisodeId, SimulationUnstableError, StageContext, StageFailed
from data_pipeline.demo_outcomes import (
    MIN_START_DISTANCE_M,
    FailedAttempt,
    Outcome,
    count_grips,
    path_length_m,
    summarise,
)
from data_pipeline.hdf5_layout import DemoRecord, write_demo
from data_pipeline.libero_utils import MAX_STEPS, task_names
from data_pipeline.sim.demo_files import assemble, hand_positions
from data_pipeline.sim.pool import run_jobs
from data_pipeline.whole_files import is_whole_json, write_json

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv
    from data_pipeline.sim.expert.expert import Attempt

SETTLE_STEPS = 10
ARM_NOISE_RAD = 0.02
"""Standard deviation of each arm joint's start; measured on the official initial states (7-12 mm at the hand)."""
MAX_ATTEMPTS = 8
"""Attempts per demonstration before it is given up."""
MAX_STARTS = 64
"""Starts drawn per demonstration before it is given up."""
NOISE_LEVELS = (1.0, 0.625, 0.25, 1.0, 0.625, 0.25, 0.0)
"""Of seven demonstrations with noise in transit, what share of it each has; the last has none."""
HOPELESS_AFTER = 3
"""A task none of whose first demonstrations can be made (MAX_ATTEMPTS each) is given up."""

_ARM_JOINTS = tuple(f"robot0_joint{i}" for i in range(1, 8))


@dataclass(frozen=True)
class DemoJob:
    """One demonstration to be made."""

    episode: EpisodeId
    seed: int  # the study's
    part: Path  # its HDF5 file; the outcome beside it is written last and says that it is done
    env: EnvConfig
    transit_noise: float = 0.0
    style_spread: float = 1.0

    @property
    def own_noise(self) -> float:
        """Noise in transit of this demonstration."""
        return self.transit_noise * NOISE_LEVELS[self.episode.demo % len(NOISE_LEVELS)]

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


# ------------------------------------------------------------------ one demonstration


def attempt_seed(episode: EpisodeId, seed: int, attempt: int) -> int:
    """31 bits that depend on all of it, the same on every machine."""
    digest = hashlib.sha256(f"demo/{episode}/{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def sample_start(env: LiberoEnv, seed: int) -> np.ndarray:
    """Sample a start, not settled yet. Returns the state, float64 [S].

    ``env.reset(seed, that state)`` leads to the same start again.
    """
    env.reset(seed)
    state = env.state()
    noise = np.random.default_rng([seed, 0]).normal(0.0, ARM_NOISE_RAD, len(_ARM_JOINTS))
    for joint, offset in zip(_ARM_JOINTS, noise, strict=True):
        state[1 + env.model.joint(joint).qposadr[0]] += offset
    env.reset(seed, state)
    return state


def distance_to_official(env: LiberoEnv, state: np.ndarray) -> float:
    """How far a start is from the nearest official initial state of the task, metres.

    The distance of two states is the largest horizontal distance between the places of one movable object in both.
    """
    columns = [1 + int(env.model.jnt_qposadr[env.model.body_jntadr[env.body_of(name)]]) for name in env.object_names]
    official = np.stack([env.init_state(i) for i in range(env.num_init_states)])
    moves = [np.linalg.norm(official[:, c : c + 2] - state[c : c + 2], axis=1) for c in columns]
    return float(np.max(moves, axis=0).min())


class Recorder:
    """Collects what held before each action. Pictures are drawn at the end, of a success: they cost as much as physics.

    A picture is a function of the state, so that drawing later gives the same bytes.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self._actions: list[np.ndarray] = []
        self._states: list[np.ndarray] = []
        self._extras: list[Mapping[str, np.ndarray]] = []

    def __call__(self, action: np.ndarray) -> None:
        """Record the present observation together with the action that follows it."""
        self._actions.append(np.asarray(action, np.float64))
        self._states.append(self._env.state())
        self._extras.append(self._env.observation_extras())

    def record(self, init_state: np.ndarray, seed: int, phases: Sequence[str]) -> DemoRecord:
        """The demonstration, a successful one; phases as of its Attempt.

        Leaves the environment in its last recorded state, fit for a reset.
        """
        return DemoRecord(
            actions=np.array(self._actions),
            states=np.array(self._states),
            observations={key: np.array([extra[key] for extra in self._extras]) for key in self._extras[0]},
            images=self._draw(),
            init_state=init_state,
            settle_steps=SETTLE_STEPS,
            fixture_poses=self._env.fixture_poses(),
            seed=seed,
            expert_phases=phases,
            fingerprint=self._env.fingerprint(),
            success=True,
        )

    def _draw(self) -> dict[str, np.ndarray]:
        size = self._env.config.resolution
        images = {camera: np.empty((len(self._states), size, size, 3), np.uint8) for camera in CAMERAS}
        for step, state in enumerate(self._states):
            self._env.show(state)
            for camera, frames in images.items():
                frames[step] = self._env.render(camera)
        return images


def make_demo(
    env: LiberoEnv, episode: EpisodeId, seed: int, target: Path, noise: float = 0.0, spread: float = 1.0
) -> Outcome:
    """Try until the expert succeeds, at most MAX_ATTEMPTS times; write the success to `target`.

    noise: standard deviation of what disturbs the executed actions in transit; the recorded ones stay the expert's.
    spread: how much the expert's ways differ between demonstrations, in [0, 1].
    """
    failed: list[FailedAttempt] = []
    for number in range(MAX_STARTS):
        own_seed = attempt_seed(episode, seed, number)
        state = sample_start(env, own_seed)
        distance_m = distance_to_official(env, state)
        if distance_m < MIN_START_DISTANCE_M:
            continue
        recorder = Recorder(env)
        attempt = play(env, own_seed, MAX_STEPS[episode.subset], recorder, noise, spread)
        if attempt.success:
            record = recorder.record(state, own_seed, attempt.phases)
            write_demo(target, record)
            return Outcome(
                failed=tuple(failed),
                refused_starts=number - len(failed),
                steps=attempt.steps,
                seed=own_seed,
                distance_to_official_m=round(distance_m, 6),
                hand_path_m=round(path_length_m(record.observations["ee_pos"]), 4),
                grips=count_grips(record.actions),
            )
        failed.append(FailedAttempt(own_seed, attempt.reason))
        if len(failed) == MAX_ATTEMPTS:
            return Outcome(tuple(failed), refused_starts=number + 1 - len(failed))
    near = f"{MAX_STARTS - len(failed)} of {MAX_STARTS} sampled starts were refused, too near to official ones"
    return Outcome((*failed, FailedAttempt(-1, near)), refused_starts=MAX_STARTS - len(failed))


def play(env: LiberoEnv, seed: int, max_steps: int, recorder: Recorder, noise: float, spread: float) -> Attempt:
    """Let the start settle, then let the expert try. Where the physics blows up, the attempt has failed."""
    from data_pipeline.sim.expert.expert import Attempt, TransitNoise, run_expert

    disturbing = TransitNoise(noise, np.random.default_rng([seed, 2])) if noise else None
    try:
        env.settle(SETTLE_STEPS)
        return run_expert(env, np.random.default_rng([seed, 1]), max_steps, recorder, disturbing, spread)
    except SimulationUnstableError as problem:
        return Attempt(success=False, steps=0, reason=str(problem))


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
            else make_demo(self._environment(job), job.episode, job.seed, job.part, job.own_noise, job.style_spread)
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


# ------------------------------------------------------------------ the stage


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
    return [
        DemoJob(
            EpisodeId(config.subset, task, demo),
            config.seed,
            parts / f"{task:02d}" / f"{demo:04d}.hdf5",
            config.env,
            config.transit_noise,
            config.style_spread,
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
