"""One demonstration by the scripted expert: its start, its attempts, and what is recorded of them.

Objects are placed by sampling the task's BDDL regions and the arm starts with the noise that LIBERO's official initial
states have. A demonstration never starts from one of those, which are for evaluation, nor nearer to one than they are
to each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.contract import CAMERAS, EpisodeId, SimulationUnstableError
from data_pipeline.demo_outcomes import MIN_START_DISTANCE_M, FailedAttempt, Outcome, count_grips, path_length_m
from data_pipeline.hdf5_layout import DemoRecord, write_demo
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.sim.expert.manner import Manner

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

_ARM_JOINTS = tuple(f"robot0_joint{i}" for i in range(1, 8))


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


def make_demo(env: LiberoEnv, episode: EpisodeId, seed: int, target: Path, manner: Manner) -> Outcome:
    """Try until the expert succeeds, at most MAX_ATTEMPTS times; write the success to `target`.

    What is executed in transit may be disturbed; the recorded actions stay the expert's.
    """
    failed: list[FailedAttempt] = []
    for number in range(MAX_STARTS):
        own_seed = attempt_seed(episode, seed, number)
        state = sample_start(env, own_seed)
        distance_m = distance_to_official(env, state)
        if distance_m < MIN_START_DISTANCE_M:
            continue
        recorder = Recorder(env)
        attempt = play(env, own_seed, MAX_STEPS[episode.subset], recorder, manner)
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


def play(env: LiberoEnv, seed: int, max_steps: int, recorder: Recorder, manner: Manner) -> Attempt:
    """Let the start settle, then let the expert try. Where the physics blows up, the attempt has failed."""
    from data_pipeline.sim.expert.expert import Attempt, TransitNoise, run_expert

    disturbing = TransitNoise(manner.noise, np.random.default_rng([seed, 2])) if manner.noise else None
    try:
        env.settle(SETTLE_STEPS)
        return run_expert(env, np.random.default_rng([seed, 1]), max_steps, recorder, disturbing, manner)
    except SimulationUnstableError as problem:
        return Attempt(success=False, steps=0, reason=str(problem))
