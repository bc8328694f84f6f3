"""Stage `demos`: demonstrations by the scripted expert, in the official HDF5 layout.

A demonstration depends on (subset, task, demo number, seed) alone: objects are placed by sampling the task's BDDL
regions and the arm starts with the noise that LIBERO's official initial states have. It never starts from one of
those, which are for evaluation. Each finished demonstration is a file of its own in the work folder until all are
there; failed attempts are listed and never written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.schema import ConfigError, EnvConfig, Subset
from configs.slices import DemosSlice
from data_pipeline.contract import CAMERAS, EpisodeId, StageContext
from data_pipeline.hdf5_layout import DemoRecord, DemoWriter, TaskInfo, write_demo
from data_pipeline.libero_utils import MAX_STEPS, SUITE_OF, demo_file, instruction, task_names
from data_pipeline.sim.boot import libero_root
from data_pipeline.sim.pool import run_jobs

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

SETTLE_STEPS = 10
ARM_NOISE_RAD = 0.02
"""Standard deviation of each arm joint's start; measured on the official initial states (7-12 mm at the hand)."""
MAX_ATTEMPTS = 8
"""Attempts per demonstration before it is given up."""

_ARM_JOINTS = tuple(f"robot0_joint{i}" for i in range(1, 8))
_PROBLEM = re.compile(r"\(define\s+\(problem\s+(\w+)\)")


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that did not solve the task."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one demonstration."""

    steps: int  # 0 when no attempt succeeded
    seed: int  # of the successful attempt, -1 when none was
    distance_to_official_m: float  # see `distance_to_official`
    failed: tuple[FailedAttempt, ...]

    @property
    def success(self) -> bool:
        """Whether there is a demonstration."""
        return self.steps > 0

    @classmethod
    def load(cls, path: Path) -> Outcome:
        """Inverse of writing `asdict` as JSON."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"failed": tuple(FailedAttempt(**entry) for entry in values["failed"])})


@dataclass(frozen=True)
class DemoJob:
    """One demonstration to be made."""

    episode: EpisodeId
    seed: int  # the study's
    part: Path  # its HDF5 file; the outcome beside it is written last and says that it is done
    env: EnvConfig

    @property
    def outcome_file(self) -> Path:
        """Exists only when the job is finished."""
        return self.part.with_suffix(".json")

    @property
    def done(self) -> bool:
        """Whether an earlier attempt of the stage finished it."""
        return self.outcome_file.exists()


# ------------------------------------------------------------------ one demonstration


def attempt_seed(episode: EpisodeId, seed: int, attempt: int) -> int:
    """31 bits that depend on all of it, the same on every machine."""
    digest = hashlib.sha256(f"demo/{episode}/{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def start_demo(env: LiberoEnv, seed: int) -> np.ndarray:
    """Sample a start and let it settle. Returns the state before settling, float64 [S].

    ``env.reset(seed, that state)`` and as many settling steps lead to the same start again.
    """
    env.reset(seed)
    state = env.state()
    noise = np.random.default_rng([seed, 0]).normal(0.0, ARM_NOISE_RAD, len(_ARM_JOINTS))
    for joint, offset in zip(_ARM_JOINTS, noise, strict=True):
        state[1 + env.model.joint(joint).qposadr[0]] += offset
    env.reset(seed, state)
    env.settle(SETTLE_STEPS)
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
    """Collects what held before each action."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self.actions: list[np.ndarray] = []
        self._states: list[np.ndarray] = []
        self._extras: list[Mapping[str, np.ndarray]] = []
        self._frames: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}

    def __call__(self, action: np.ndarray) -> None:
        """Record the present observation together with the action that follows it."""
        self.actions.append(np.asarray(action, np.float64))
        self._states.append(self._env.state())
        self._extras.append(self._env.observation_extras())
        for camera, frames in self._frames.items():
            frames.append(self._env.render(camera))

    def record(self, init_state: np.ndarray, seed: int) -> DemoRecord:
        """The demonstration, a successful one."""
        return DemoRecord(
            actions=np.array(self.actions),
            states=np.array(self._states),
            observations={key: np.array([extra[key] for extra in self._extras]) for key in self._extras[0]},
            images={camera: np.array(frames) for camera, frames in self._frames.items()},
            init_state=init_state,
            settle_steps=SETTLE_STEPS,
            fixture_poses=self._env.fixture_poses(),
            seed=seed,
            fingerprint=self._env.fingerprint(),
            success=True,
        )


def make_demo(env: LiberoEnv, episode: EpisodeId, seed: int, target: Path) -> Outcome:
    """Try until the expert succeeds, at most MAX_ATTEMPTS times; write the success to `target`."""
    from data_pipeline.sim.expert.expert import run_expert

    failed: list[FailedAttempt] = []
    for number in range(MAX_ATTEMPTS):
        own_seed = attempt_seed(episode, seed, number)
        state = start_demo(env, own_seed)
        recorder = Recorder(env)
        attempt = run_expert(env, np.random.default_rng([own_seed, 1]), MAX_STEPS[episode.subset], recorder)
        if attempt.success:
            write_demo(target, recorder.record(state, own_seed))
            return Outcome(attempt.steps, own_seed, round(distance_to_official(env, state), 6), tuple(failed))
        failed.append(FailedAttempt(own_seed, attempt.reason))
    return Outcome(0, -1, -1.0, tuple(failed))


def _cannot(episode: EpisodeId, outcome: Outcome) -> str:
    subset, task = episode.subset.value, episode.task_id
    reasons = "; ".join(sorted({attempt.reason for attempt in outcome.failed}))
    return (
        f"the expert solved task {task} of {subset} ({task_names(episode.subset)[task]}) in none of "
        f"{len(outcome.failed)} attempts: {reasons}. "
        f"Leave {task} out of data.tasks.{subset}, or use data.source=official"
    )


class DemoMaker:
    """Does demonstration jobs; keeps the environment of the last task."""

    def __init__(self) -> None:
        self._key: tuple[int, EnvConfig] | None = None
        self._env: LiberoEnv | None = None

    def run(self, job: DemoJob) -> None:
        """Make one demonstration and store it and its outcome.

        Raises ConfigError when not even the first of a task can be made: the others need not be tried.
        """
        job.part.parent.mkdir(parents=True, exist_ok=True)
        outcome = make_demo(self._environment(job), job.episode, job.seed, job.part)
        if job.episode.demo == 0 and not outcome.success:
            raise ConfigError(_cannot(job.episode, outcome))
        _write_json(job.outcome_file, asdict(outcome))

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

    Raises ConfigError for a task that the expert cannot do.
    """
    jobs = demo_jobs(config, context.work / "parts")
    run_jobs(jobs, DemoMaker, config.workers, context, lambda job: str(job.episode))
    outcomes = {job: Outcome.load(job.outcome_file) for job in jobs}
    lost = sum(not outcome.success for outcome in outcomes.values())
    if lost:
        context.report(len(jobs), len(jobs), f"{lost} could not be made; demos.json says why")
    outputs = [_assemble(config, task, _of_task(outcomes, task), context.work) for task in config.tasks]
    _write_json(context.work / "demos.json", _summary(config, outcomes))
    return [*outputs, "demos.json"]


def demo_jobs(config: DemosSlice, parts: Path) -> list[DemoJob]:
    """One job per demonstration, in order."""
    return [
        DemoJob(
            EpisodeId(config.subset, task, demo), config.seed, parts / f"{task:02d}" / f"{demo:04d}.hdf5", config.env
        )
        for task in config.tasks
        for demo in range(config.episodes_per_task)
    ]


def task_info(subset: Subset, task_id: int, resolution: int) -> TaskInfo:
    """What a file says about its task, in the words of LIBERO's own files."""
    name = task_names(subset)[task_id]
    bddl_name = f"{SUITE_OF[subset]}/{name}.bddl"
    content = (libero_root() / "bddl_files" / bddl_name).read_text(encoding="utf-8")
    found = _PROBLEM.search(content)
    assert found is not None, bddl_name
    arguments: dict[str, Any] = {
        "type": 1,
        "env_name": found[1],
        "problem_name": found[1].lower(),
        "bddl_file": bddl_name,
        "env_kwargs": {
            "robots": ["Panda"],
            "controller_configs": {"type": "OSC_POSE"},
            "bddl_file_name": bddl_name,
            "camera_names": list(CAMERAS),
            "camera_heights": resolution,
            "camera_widths": resolution,
            "control_freq": 20,
        },
    }
    return TaskInfo(name, instruction(name), found[1], bddl_name, content, arguments)


def _of_task(outcomes: dict[DemoJob, Outcome], task_id: int) -> dict[DemoJob, Outcome]:
    return {job: outcome for job, outcome in outcomes.items() if job.episode.task_id == task_id}


def _assemble(config: DemosSlice, task_id: int, outcomes: dict[DemoJob, Outcome], folder: Path) -> str:
    target = demo_file(folder, config.subset, task_id)
    made = [job for job, outcome in outcomes.items() if outcome.success]
    with DemoWriter(target, task_info(config.subset, task_id, config.env.resolution)) as writer:
        for job in made:
            writer.add_file(job.episode.demo, job.part)
    return target.name


def _summary(config: DemosSlice, all_outcomes: dict[DemoJob, Outcome]) -> dict[str, Any]:
    tasks = {}
    for task in config.tasks:
        outcomes = {job.episode.demo: outcome for job, outcome in _of_task(all_outcomes, task).items()}
        made = {demo: outcome for demo, outcome in outcomes.items() if outcome.success}
        tasks[task_names(config.subset)[task]] = {
            "task_id": task,
            "wanted": len(outcomes),
            "made": len(made),
            "mean_steps": round(float(np.mean([outcome.steps for outcome in made.values()])), 1),
            "min_distance_to_official_m": min(outcome.distance_to_official_m for outcome in made.values()),
            "demos": {f"demo_{demo}": asdict(outcome) for demo, outcome in outcomes.items()},
        }
    return {"subset": config.subset.value, "seed": config.seed, "tasks": tasks}


def _write_json(path: Path, values: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
