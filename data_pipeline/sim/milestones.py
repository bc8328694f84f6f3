"""Watches an episode while it is run, for `data_pipeline.milestones`: a few copies per step, all reckoning at the end.

Contacts and predicates are those of the dynamics just computed, nothing is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import mujoco
import numpy as np

from data_pipeline.milestones import Trace, milestones
from data_pipeline.scene import Goal
from data_pipeline.sim.goals import Part, moving_part, task_goals
from data_pipeline.sim.hand_contacts import HandContacts

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

_JOINT_SAMPLES = 401
"""Values of a joint at which a predicate is asked where it turns true."""


@dataclass(frozen=True)
class _Boxes:
    """The solid geoms of one body as boxes that are level with it."""

    centre: np.ndarray  # float [n, 3], in the geom's frame
    half: np.ndarray  # float [n, 3]
    position: np.ndarray  # float [n, 3], of the geom in the body's frame
    rotation: np.ndarray  # float [n, 3, 3], geom to body

    def distance(self, points: np.ndarray) -> np.ndarray:
        """From points [T, 3] in the body's frame to the nearest surface, 0 inside: float [T]."""
        local = np.einsum("tni,nij->tnj", points[:, None] - self.position, self.rotation)
        outside = np.maximum(np.abs(local - self.centre) - self.half, 0.0)
        return np.linalg.norm(outside, axis=-1).min(1)


class _Moment(NamedTuple):
    """What is copied at each step; K things: the movable objects, then the parts that goals are about."""

    position: np.ndarray  # [K, 3] of bodies
    rotation: np.ndarray  # [K, 9]
    grip: np.ndarray  # [3]
    joint: np.ndarray  # [P]
    place: np.ndarray  # [L, 3]
    touched: np.ndarray  # bool [K]
    grasped: np.ndarray  # bool [K]
    holds: np.ndarray  # bool [G]


class Tracker:
    """Of one environment, one episode at a time. Call `begin` after it has settled, `update` after each step."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env, self._goals = env, task_goals(env)
        self._implied = [goal.words for goal in self._goals[len(env.goal) :]]
        self._parts = {goal.subject: moving_part(env, goal.subject) for goal in self._goals if not goal.places}
        self._things = (*env.object_names, *self._parts)
        geoms = [*map(env.geoms_of, env.object_names), *(part.geoms for part in self._parts.values())]
        self._contacts = HandContacts(env.model, env.raw.robots[0].gripper, geoms)
        self._bodies = np.array([*map(env.body_of, env.object_names), *(part.body for part in self._parts.values())])
        self._boxes = {
            goal.subject: _boxes(env.model, self._bodies[self._things.index(goal.subject)]) for goal in self._goals
        }
        self._joints = np.array([part.address for part in self._parts.values()], int)
        self._turning = {g.subject: _turning_point(env, g, self._parts[g.subject]) for g in self._goals if not g.places}
        self._places = [_place(env, goal.target) for goal in self._goals if goal.places]
        self._grip: int = env.raw.robots[0].eef_site_id
        self._moments: list[_Moment] = []

    def begin(self) -> None:
        """Forget the last episode; note where everything is."""
        self._moments = [self._look(self._env.goals_hold())]

    def update(self) -> None:
        """Note what the last step did."""
        self._moments.append(self._look(self._env.held_goals))

    def record(self) -> dict[str, Any]:
        """See `data_pipeline.milestones.milestones`."""
        return milestones(self.trace())

    def trace(self) -> Trace:
        """Everything noted since `begin`."""
        seen = _Moment(*map(np.stack, zip(*self._moments, strict=True)))
        objects = len(self._env.object_names)
        subjects = [self._things.index(goal.subject) for goal in self._goals]
        places = iter(seen.place.transpose(1, 0, 2))
        nowhere = np.full(len(self._moments), np.nan)
        return Trace(
            objects=self._env.object_names,
            goals=self._goals,
            stated=len(self._env.goal),
            position=seen.position[:, :objects],
            touched=seen.touched[:, :objects],
            grasped=seen.grasped[:, :objects],
            holds=seen.holds,
            subject_touched=seen.touched[:, subjects],
            subject_distance=np.stack([self._distance(seen, index) for index in subjects], axis=1),
            away=np.stack(
                [
                    np.linalg.norm((seen.position[:, index] - next(places))[:, :2], axis=-1) if goal.places else nowhere
                    for goal, index in zip(self._goals, subjects, strict=True)
                ],
                axis=1,
            ),
            progress=np.stack(
                [nowhere if goal.places else self._progress(seen, index) for index, goal in enumerate(self._goals)],
                axis=1,
            ),
        )

    def _look(self, stated: tuple[bool, ...]) -> _Moment:
        env, data = self._env, self._env.data
        self._contacts.update(data)
        return _Moment(
            position=data.xpos[self._bodies],
            rotation=data.xmat[self._bodies],
            grip=data.site_xpos[self._grip].copy(),
            joint=data.qpos[self._joints],
            place=np.array([view[index] for view, index in self._places]).reshape(-1, 3),
            touched=self._contacts.touched,
            grasped=self._contacts.grasped,
            holds=np.array([*stated, *map(env.holds, self._implied)]),
        )

    def _distance(self, seen: _Moment, thing: int) -> np.ndarray:
        """From the point between the fingertips to the thing's surface: float [T]."""
        rotation = seen.rotation[:, thing].reshape(-1, 3, 3)
        local = np.einsum("ti,tij->tj", seen.grip - seen.position[:, thing], rotation)
        return self._boxes[self._things[thing]].distance(local)

    def _progress(self, seen: _Moment, goal: int) -> np.ndarray:
        """Share of the way of a joint to where its predicate turns true, 1 where it is: float [T]."""
        holds, subject = seen.holds[:, goal], self._goals[goal].subject
        if holds[0]:
            return holds.astype(float)
        joint = seen.joint[:, [*self._parts].index(subject)]
        share = (joint - joint[0]) / (self._turning[subject] - joint[0])
        return np.maximum(np.clip(share, 0.0, 1.0), holds)


def _boxes(model: mujoco.MjModel, body: int) -> _Boxes:
    solid = np.flatnonzero((model.geom_bodyid == body) & ((model.geom_contype > 0) | (model.geom_conaffinity > 0)))
    rotation = np.zeros((len(solid), 9))
    for row, geom in zip(rotation, solid, strict=True):
        mujoco.mju_quat2Mat(row, model.geom_quat[geom])
    aabb = model.geom_aabb[solid]
    return _Boxes(aabb[:, :3], aabb[:, 3:], model.geom_pos[solid], rotation.reshape(-1, 3, 3))


def _place(env: LiberoEnv, name: str) -> tuple[np.ndarray, int]:
    """Where a goal puts things: a view of all positions, and the row of the object's body or the region's site."""
    if name in env.raw.obj_body_id:
        return env.data.xpos, env.body_of(name)
    return env.data.site_xpos, env.model.site(name).id


def _turning_point(env: LiberoEnv, goal: Goal, part: Part) -> float:
    """Value of a joint at which LIBERO's predicate turns true, asked along the joint's range."""
    before = env.data.qpos[part.address]
    low, high = env.model.jnt_range[part.joint].tolist()
    values = np.linspace(low, high, _JOINT_SAMPLES)
    answers: list[bool] = []
    for value in (*values, before):  # the last one restores what `turnon` remembers
        env.data.qpos[part.address] = value
        answers.append(env.holds(goal.words))
    true = np.array(answers[:-1])
    edge = int(np.flatnonzero(true[1:] != true[:-1])[0])
    return float(values[edge + true[edge + 1]])
