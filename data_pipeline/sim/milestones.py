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
from data_pipeline.sim.goals import Part, moving_part, other_parts, task_goals
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
    """What is copied at each step: there is no time for more."""

    bodies: np.ndarray  # float [B, 3], positions: movable objects, parts that goals are about, places that are bodies
    turned: np.ndarray  # float [G, 9], rotations of the goals' subjects
    sites: np.ndarray  # float [1 + L, 3]: the point between the fingertips, places that are sites
    joints: np.ndarray  # float [P + Q], of the goals' parts and of the others
    contacts: np.ndarray  # int [n, 2], geoms
    holds: tuple[bool, ...]  # of the BDDL goal
    implied: tuple[bool, ...]  # of the other goals


class Tracker:
    """Of one environment, one episode at a time. Call `begin` after it has settled, `update` after each step."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env, self._goals = env, task_goals(env)
        self._implied = [goal.words for goal in self._goals[len(env.goal) :]]
        self._parts = {goal.subject: moving_part(env, goal.subject) for goal in self._goals if not goal.places}
        self._others = other_parts(env, {part.joint for part in self._parts.values()})
        parts = [*self._parts.values(), *self._others.values()]
        things = (*env.object_names, *self._parts)
        geoms = [*map(env.geoms_of, env.object_names), *(part.geoms for part in parts)]
        self._contacts = HandContacts(env.model, env.raw.robots[0].gripper, geoms)
        self._subjects = [things.index(goal.subject) for goal in self._goals]
        targets = [goal.target for goal in self._goals if goal.places]
        self._body_places = [name for name in targets if name in env.raw.obj_body_id]
        self._site_places = [name for name in targets if name not in env.raw.obj_body_id]
        moving = [*map(env.body_of, env.object_names), *(part.body for part in self._parts.values())]
        self._bodies = np.array([*moving, *map(env.body_of, self._body_places)])
        self._sites = np.array([env.raw.robots[0].eef_site_id, *(env.model.site(s).id for s in self._site_places)])
        self._joints = np.array([part.address for part in parts], int)
        self._ranges = np.array([float(np.ptp(env.model.jnt_range[part.joint])) for part in self._others.values()])
        self._turning = [0.0 if g.places else _turning_point(env, g, self._parts[g.subject]) for g in self._goals]
        self._boxes = [_boxes(env.model, moving[subject]) for subject in self._subjects]
        self._views = env.data.xpos, env.data.xmat, env.data.site_xpos, env.data.qpos  # MuJoCo keeps them in place
        self._turned = self._bodies[self._subjects]
        self._moments: list[_Moment] = []

    def begin(self) -> None:
        """Forget the last episode; note where everything is."""
        self._moments.clear()
        self._note(self._env.goals_hold())

    def update(self) -> None:
        """Note what the last step did."""
        self._note(self._env.held_goals)

    def _note(self, holds: tuple[bool, ...]) -> None:
        positions, rotations, sites, joints = self._views
        self._moments.append(
            _Moment(
                positions[self._bodies],
                rotations[self._turned],
                sites[self._sites],
                joints[self._joints],
                self._env.data.contact.geom.copy(),
                holds,
                tuple([self._env.holds(words) for words in self._implied]),
            )
        )

    def record(self) -> dict[str, Any]:
        """See `data_pipeline.milestones.milestones`."""
        return milestones(self.trace())

    def trace(self) -> Trace:
        """Everything noted since `begin`."""
        bodies, turned, sites, joints, contacts, holds, implied = zip(*self._moments, strict=True)
        position, objects, q = np.stack(bodies), len(self._env.object_names), np.stack(joints)
        holding = np.concatenate([np.array(holds, bool), np.array(implied, bool)], axis=1)
        touch = self._contacts.read(contacts)
        return Trace(
            objects=self._env.object_names,
            goals=self._goals,
            stated=len(self._env.goal),
            position=position[:, :objects],
            touched=touch.touched[:, :objects],
            grasped=touch.grasped[:, :objects],
            holds=holding,
            subject_touched=touch.touched[:, self._subjects],
            subject_distance=self._distances(position, np.stack(turned), np.stack(sites)[:, 0]),
            away=self._away(position, np.stack(sites)),
            parts=tuple(self._others),
            part_touched=touch.touched[:, objects + len(self._parts) :],
            part_moved=np.abs(q - q[0])[:, len(self._parts) :] / self._ranges,
            progress=self._progress(q, holding),
        )

    def _distances(self, position: np.ndarray, turned: np.ndarray, grip: np.ndarray) -> np.ndarray:
        """From the point between the fingertips to each goal's subject: float [T, G]."""
        columns: list[np.ndarray] = []
        for goal, subject in enumerate(self._subjects):
            rotation = turned[:, goal].reshape(-1, 3, 3)
            local = np.einsum("ti,tij->tj", grip - position[:, subject], rotation)
            columns.append(self._boxes[goal].distance(local))
        return np.stack(columns, axis=1)

    def _away(self, position: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Sideways from each goal's subject to its place: float [T, G], NaN of goals about joints."""
        away = np.full((len(position), len(self._goals)), np.nan)
        for index, goal in enumerate(self._goals):
            if goal.target in self._body_places:
                place = position[:, self._body_places.index(goal.target) - len(self._body_places)]
            elif goal.places:
                place = sites[:, 1 + self._site_places.index(goal.target)]
            else:
                continue
            away[:, index] = np.linalg.norm((position[:, self._subjects[index]] - place)[:, :2], axis=-1)
        return away

    def _progress(self, joints: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """Share of each joint's way to where its predicate turns true, 1 where it is: float [T, G], NaN of others."""
        progress = np.full(holds.shape, np.nan)
        for index, goal in enumerate(self._goals):
            if goal.places:
                continue
            progress[:, index] = holds[:, index]
            joint = joints[:, [*self._parts].index(goal.subject)]
            if not holds[0, index]:
                share = (joint - joint[0]) / (self._turning[index] - joint[0])
                progress[:, index] = np.maximum(np.clip(share, 0.0, 1.0), holds[:, index])
        return progress


def _boxes(model: mujoco.MjModel, body: int) -> _Boxes:
    solid = np.flatnonzero((model.geom_bodyid == body) & ((model.geom_contype > 0) | (model.geom_conaffinity > 0)))
    rotation = np.zeros((len(solid), 9))
    for row, geom in zip(rotation, solid, strict=True):
        mujoco.mju_quat2Mat(row, model.geom_quat[geom])
    aabb = model.geom_aabb[solid]
    return _Boxes(aabb[:, :3], aabb[:, 3:], model.geom_pos[solid], rotation.reshape(-1, 3, 3))


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
