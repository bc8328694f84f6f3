"""The scripted expert: orders a task's goal predicates and plays the skill that makes each of them true.

It reads simulator state and acts through the ordinary 7-D interface, as a policy would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.sim.expert.doors import close_door, put_behind_door
from data_pipeline.sim.expert.drag import drag
from data_pipeline.sim.expert.fixtures import close_drawer, open_drawer, turn_knob
from data_pipeline.sim.expert.grasps import Grasp
from data_pipeline.sim.expert.manner import USUAL, Manner
from data_pipeline.sim.expert.motion import Hand, Motion, Style
from data_pipeline.sim.expert.rearrange import clear_drawer
from data_pipeline.sim.expert.scene import Goal, Scene
from data_pipeline.sim.expert.skills import ExpertFailure, pick, place

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

_ORDER = {"open": 0, "turnon": 1, "in": 2, "on": 2, "close": 3}
_NOT_DONE = {
    "open": "{} is not open",
    "turnon": "{} is not turned on",
    "in": "{} is not in {}",
    "on": "{} is not on {}",
    "close": "{} is not closed",
}
_ATTEMPTS_PER_GOAL = 3
_DRAWER_AJAR = 0.08  # metres: wide enough to put something in
_BETWEEN = 0.008  # metres: half the gap between two objects on one burner
_NOISE_MEMORY, _NOISE_STEP = 0.8, 0.6  # per control step: together they keep the strength as standard deviation
_NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 0.15, 0.15, 0.15])  # share of the strength: positions, rotations


class TransitNoise:
    """Pushes the hand off its way where nothing is near, as a learner's own errors will (DART, arXiv:1703.09327).

    What is executed is disturbed, what is recorded is not: so demonstrations show how to come back.
    """

    def __init__(self, strength: float, rng: np.random.Generator) -> None:
        self._scale = strength * _NOISE_SHAPE
        self._rng = rng
        self._drift = np.zeros(6)

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """The action [7] with a slowly varying error added to its six motions."""
        self._drift = _NOISE_MEMORY * self._drift + _NOISE_STEP * self._scale * self._rng.normal(size=6)
        return np.clip(action + np.array([*self._drift, 0.0]), -1, 1)


@dataclass(frozen=True)
class Attempt:
    """How one run of the expert ended."""

    success: bool
    steps: int
    reason: str  # empty on success
    phases: tuple[str, ...] = ()  # per step, what it was for: `Hand.phase`


class Expert:
    """The expert of one episode that has settled, asked for one action at a time. The caller steps `env` in between."""

    def __init__(self, env: LiberoEnv, rng: np.random.Generator, manner: Manner = USUAL) -> None:
        self._env = env
        self._hand = Hand(Scene(env), Style.sample(rng, manner.spread))
        self._actions = _play(self._hand)

    @property
    def phase(self) -> str:
        """What the last action is for: see `Hand.phase`."""
        return self._hand.phase

    @property
    def in_transit(self) -> bool:
        """Whether the action advised last moves the hand through free space."""
        return self._hand.in_transit

    def advise(self) -> np.ndarray | str:
        """The next action, float32 [7], for the state as it is now; or why the expert gives up."""
        try:
            action = next(self._actions, None)
        except ExpertFailure as failure:
            return str(failure)
        return f"all skills played, {_missing(self._env)}" if action is None else action


def run_expert(
    env: LiberoEnv,
    rng: np.random.Generator,
    max_steps: int,
    before_step: Callable[[np.ndarray], None] = lambda action: None,
    noise: TransitNoise | None = None,
    manner: Manner = USUAL,
) -> Attempt:
    """Drive `env` from its present state until success, failure or `max_steps`.

    `before_step` is called with each action (float32 [7]) before it is executed; with `noise`, what is executed in
    transit is that action disturbed. manner: its spread.
    """
    expert, phases = Expert(env, rng, manner), list[str]()
    for steps in range(max_steps):
        advice = expert.advise()
        if isinstance(advice, str):
            return Attempt(success=False, steps=steps, reason=advice)
        phases.append(expert.phase)
        before_step(advice)
        if env.step(noise.disturb(advice) if noise and expert.in_transit else advice):
            return Attempt(success=True, steps=steps + 1, reason="", phases=tuple(phases))
    return Attempt(success=False, steps=max_steps, reason=f"after {max_steps} steps {_missing(env)}")


def _missing(env: LiberoEnv) -> str:
    """The goal predicates that do not hold, in words."""
    scene = Scene(env)
    return ", ".join(_NOT_DONE[goal[0]].format(*goal[1:]) for goal in scene.goals if not scene.satisfied(goal))


def expert_actions(env: LiberoEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Actions float32 [7]; each is computed from the state at the moment it is asked for.

    The caller steps the environment between two actions and stops at success. Raises ExpertFailure with the reason
    when the expert gives up; ends when it has played everything.
    """
    yield from _play(Hand(Scene(env), Style.sample(rng)))


def _play(hand: Hand) -> Iterator[np.ndarray]:
    for action in _motion(hand):
        yield np.clip(action, -1, 1).astype(np.float32)


def _motion(hand: Hand) -> Motion:
    scene = hand.scene
    if unknown := [goal for goal in scene.goals if goal[0] not in _ORDER]:  # libero_90 also turns a stove off
        raise ExpertFailure(f"no skill for {' '.join(unknown[0])}")
    failed: dict[str, list[Grasp]] = {}
    for goal in sorted(scene.goals, key=lambda g: _ORDER[g[0]]):
        for _ in range(_ATTEMPTS_PER_GOAL):
            if scene.satisfied(goal):
                break
            yield from _achieve(hand, goal, failed.setdefault(goal[1], []))
    yield from hand.wait(20)


def _achieve(hand: Hand, goal: Goal, failed: list[Grasp]) -> Motion:
    match goal:
        case ("open", region):
            yield from open_drawer(hand, region)
        case ("close", region) if hand.scene.is_object(region):
            yield from close_door(hand, region)
        case ("close", region):
            yield from close_drawer(hand, region)
        case ("turnon", fixture):
            yield from turn_knob(hand, fixture)
        case ("on", name, where) if name.startswith("plate"):
            yield from drag(hand, name, hand.scene.region(where))
        case ("on", name, where):
            yield from _put_on(hand, name, where, failed)
        case ("in", name, where) if "microwave" in where:
            yield from put_behind_door(hand, name, where)
        case ("in", name, where):
            yield from _put_in(hand, name, where, failed)
        case _:
            raise ExpertFailure(f"no skill for {' '.join(goal)}")


def _put_on(hand: Hand, name: str, where: str, failed: list[Grasp]) -> Motion:
    yield from pick(hand, name, failed)
    scene = hand.scene
    if scene.is_object(where):
        yield from place(
            hand, name, scene.position(where), _height(scene.object_points(where), scene.position(where), 0.03)
        )
        return
    at = scene.region(where).centre
    at[:2] += _share_of_place(scene, name, where)
    owner = scene.owner(where)
    support = at[2] + 0.007
    if scene.is_object(owner):
        support = _height(scene.object_points(owner), at, 0.06)
    yield from place(hand, name, at, support)


def _height(points: np.ndarray, at: np.ndarray, around: float) -> float:
    """Highest of the points within `around` metres of `at` (in x and in y), or of all when there is none."""
    near = points[(np.abs((points - at)[:, :2]) < around).all(axis=1)]
    return float((near if len(near) else points)[:, 2].max())


def _share_of_place(scene: Scene, name: str, where: str) -> np.ndarray:
    """Where two objects go to one region they stand side by side, as close as their narrower side allows."""
    together = [g[1] for g in scene.goals if g[0] == "on" and g[2] == where]
    if len(together) < 2:
        return np.zeros(2)
    size = np.ptp(scene.object_points(name)[:, :2], axis=0)
    away = np.eye(2)[size.argmin()] * (size.min() / 2 + _BETWEEN)
    return away if together.index(name) else -away


def _put_in(hand: Hand, name: str, where: str, failed: list[Grasp]) -> Motion:
    scene = hand.scene
    in_drawer = "cabinet" in where
    if in_drawer and abs(scene.joint_value(scene.joint_of_region(where))) < _DRAWER_AJAR:
        yield from clear_drawer(hand, name, scene.joint_of_region(where), failed)
        yield from open_drawer(hand, where)
    yield from pick(hand, name, failed)
    region = scene.region(where)
    points = scene.obstacle_points(name, region.centre)
    inside = (np.abs((points - region.centre)[:, :2]) < region.extent[:2] * 0.8).all(axis=1)
    inside &= points[:, 2] < region.centre[2] + region.extent[2]
    floor = points[inside, 2].max() if inside.any() else region.centre[2] - region.extent[2]
    at, release = region.centre[:2], 0.05 if "basket" in where else 0.03
    if in_drawer:
        at = at + scene.slider(scene.joint_of_region(where)).outwards[:2] * 0.028
        release = 0.008
    yield from place(hand, name, at, float(floor), release)
