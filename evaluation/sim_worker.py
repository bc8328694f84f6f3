"""One simulator process: several environments, each with its own episode; renders only when the policy looks.

Started by `evaluation.simulators` with one socket and one piece of shared memory; it speaks `evaluation.messages` and
dies with its parent. Nothing here may import torch, peft or triton: importing them after software GL is up crashes the
process.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from configs.choices import Subset
from configs.data import EnvConfig
from configs.perturbation import Perturbation
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem, SimulationUnstableError
from data_pipeline.processes import die_with_parent
from evaluation.episodes import EpisodeRequest, Shows
from evaluation.messages import (
    PERTURBATION,
    Begin,
    Chunk,
    Describe,
    Description,
    Failed,
    Ready,
    Setup,
    Unusable,
    View,
    map_frames,
)

if TYPE_CHECKING:
    from data_pipeline.sim.expert.expert import Expert


class Tracker(Protocol):
    """Notes how far an episode comes; `data_pipeline.sim.milestones.Tracker` is one."""

    def begin(self) -> None: ...  # noqa: D102
    def update(self) -> None: ...  # noqa: D102
    def record(self) -> dict[str, Any]: ...  # noqa: D102


class Env(Protocol):
    """What an episode needs of an environment; `data_pipeline.sim.environment.LiberoEnv` is one."""

    task_name: str
    instruction: str

    def reset(self, seed: int, init_state: int) -> None: ...  # noqa: D102
    def settle(self, steps: int) -> None: ...  # noqa: D102
    def step(self, action: np.ndarray) -> bool: ...  # noqa: D102
    def success(self) -> bool: ...  # noqa: D102
    def render(self, camera: str) -> np.ndarray: ...  # noqa: D102
    def fingerprint(self) -> dict[str, Any]: ...  # noqa: D102
    def tracker(self) -> Tracker: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


EnvFactory = Callable[[Subset, int, EnvConfig], Env]


@dataclass(frozen=True)
class _Built:
    """An environment and whose it is."""

    task: tuple[Subset, int]
    env: Env
    tracker: Tracker
    description: Description


class Slot:
    """One environment, and the episode in progress. frame: uint8 [R, R, 3], shared with the driver."""

    def __init__(self, factory: EnvFactory, config: EnvConfig, frame: np.ndarray) -> None:
        self._factory = factory
        self._config = config
        self._frame = frame
        self._kept: _Built | None = None
        self._request: EpisodeRequest | None = None
        self._steps = 0
        self._shown: Description | None = None  # of the episode
        self._expert: Expert | None = None  # in episodes that show it

    def answer(self, message: Describe | Begin | Chunk) -> Description | View | Failed:
        """Do what the message asks."""
        if isinstance(message, Describe):
            return self._environment(message.subset, message.task_id).description
        began = time.perf_counter()
        try:
            if isinstance(message, Begin):
                self._begin(message.request)
                return self._view("reset_s", began, success=False)
            return self._view("physics_s", began, success=self._execute(message.actions))
        except SimulationUnstableError as problem:  # the next reset mends it
            return Failed(str(problem))

    def close(self) -> None:
        """Close the environment: its GL context must go before the interpreter does."""
        if self._kept is not None:
            self._kept.env.close()
        self._kept = None

    def _environment(self, subset: Subset, task_id: int) -> _Built:
        """The task's environment. Only the last is kept: each holds 100 MB, and building one takes a moment."""
        if self._kept is None or self._kept.task != (subset, task_id):
            self.close()
            env = self._factory(subset, task_id, self._config)
            description = Description(env.task_name, env.instruction, dict(env.fingerprint()))
            self._kept = _Built((subset, task_id), env, env.tracker(), description)
            _return_memory()
        return self._kept

    def _begin(self, request: EpisodeRequest) -> None:
        built = self._environment(request.subset, request.key.task_id)
        env, self._shown = built.env, built.description
        if request.start is not None:
            from data_pipeline.replay import begin_replay, cannot_start  # h5py: only where recordings are replayed

            if problem := cannot_start(cast(Any, env), request.start):
                which = f"demonstration {request.key.init_state} of libero_{request.subset}, task {request.key.task_id}"
                raise EnvironmentProblem(f"{which}, cannot be replayed: {problem}; regenerate it with these assets")
            begin_replay(cast(Any, env), request.start)
        else:
            if request.perturbation:
                self._shown = _perturb(built, request)
            else:
                env.reset(seed=request.key.seed, init_state=request.key.init_state)
            env.settle(request.protocol.settle_steps)
        built.tracker.begin()
        self._request, self._steps = request, 0
        self._expert = _expert_for(env, request) if request.shows is Shows.EXPERT else None

    def _execute(self, actions: np.ndarray) -> bool:
        """Step through a chunk; success as the protocol reads it."""
        request = self._current()
        built = self._environment(request.subset, request.key.task_id)
        reached = False
        for action in actions[: request.protocol.max_steps - self._steps]:
            reached = built.env.step(action)  # LIBERO's own `done`; asking again would look at a later state
            built.tracker.update()
            self._steps += 1
            if reached and request.protocol.success_within_chunk:
                break
        return reached

    def _view(self, what: str, began: float, *, success: bool) -> View:
        """Show the state. what: the kind of work that the time since `began` went into."""
        request, acted = self._current(), time.perf_counter()
        built = self._environment(request.subset, request.key.task_id)
        over = success or self._steps >= request.protocol.max_steps
        drawn = not over and request.shows is Shows.IMAGE
        if drawn:
            self._frame[:] = built.env.render(AGENTVIEW)
        rendered = time.perf_counter()
        advice = self._expert.advise() if self._expert is not None and not over else None
        spent = {what: acted - began, "render_s": rendered - acted, "policy_s": time.perf_counter() - rendered}
        told = built.tracker.record() if over or isinstance(advice, str) else {}
        assert self._shown is not None
        return View(
            self._shown,
            self._steps,
            success=success,
            over=over,
            drawn=drawn,
            spent=spent,
            milestones=told,
            advice=advice,
        )

    def _current(self) -> EpisodeRequest:
        assert self._request is not None, "a chunk arrived before an episode began"
        return self._request


def _perturb(built: _Built, request: EpisodeRequest) -> Description:
    """Begin a perturbed episode; says what it is."""
    from data_pipeline.sim.perturbation import begin  # the simulator: only where episodes are perturbed

    key, perturbation = request.key, Perturbation.parse(request.perturbation)
    begun = begin(cast(Any, built.env), perturbation, key.init_state, key.seed)
    fingerprint = built.description.fingerprint | {PERTURBATION: request.perturbation}
    return replace(built.description, instruction=begun.instruction, fingerprint=fingerprint, perturbed=begun.drawn)


def _expert_for(env: Env, request: EpisodeRequest) -> Expert:
    """The scripted expert for an episode that has begun; its style is drawn from the key."""
    from data_pipeline.sim.expert.expert import Expert  # the simulator: only where it is asked for

    key = request.key
    return Expert(cast(Any, env), np.random.default_rng([key.task_id, key.init_state, key.seed]))


def load_factory(reference: str) -> EnvFactory:
    """Import `module:attribute`, a callable (subset, task_id, config) -> Env."""
    module, _, name = reference.partition(":")
    return cast(EnvFactory, getattr(importlib.import_module(module), name))


def _return_memory() -> None:
    """Building a model leaves some 130 MB of cycles and freed pages behind, in each of the processes at work."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def serve(connection: Connection, memory: int, factory: str) -> int:
    """Answer messages until the parent closes its end. memory: descriptor of the frames. Returns the exit code."""
    slots: list[Slot] = []
    try:
        setup: Setup = connection.recv()
        frames = map_frames(memory, setup)
        os.close(memory)
        make = load_factory(factory)
        slots = [Slot(make, setup.env, frame) for frame in frames]
        connection.send(Ready())
        while True:
            number, message = connection.recv()
            connection.send(slots[number].answer(message))
    except EOFError:
        return 0
    except EnvironmentProblem as problem:
        connection.send(Unusable(str(problem)))
        return 78
    finally:
        for slot in slots:
            slot.close()


def main(argv: list[str]) -> int:
    """Arguments: file descriptors of the socket and of the frames, the parent's process id, what makes environments."""
    descriptor, memory, parent_pid, factory = int(argv[0]), int(argv[1]), int(argv[2]), argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    die_with_parent(parent_pid)
    with Connection(socket.socket(fileno=descriptor).detach()) as connection:
        return serve(connection, memory, factory)
