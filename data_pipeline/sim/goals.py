"""What a task's BDDL goal is about: predicates, the things they name, and the parts that move."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.scene import Goal
from data_pipeline.templates import label

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv


@dataclass(frozen=True)
class Part:
    """What moves when a goal about a joint is pursued."""

    body: int
    geoms: np.ndarray  # int [m], of the body
    joint: int
    address: int  # of the joint in qpos


def task_goals(env: LiberoEnv) -> tuple[Goal, ...]:
    """The BDDL goal; then, for things put into a part that opens and is closed at first, `open` of that part."""
    stated = tuple(Goal(predicate.lower(), subject, "".join(target)) for predicate, subject, *target in env.goal)
    about_joints = {goal.subject for goal in stated if not goal.places}
    hinged = {g.target for g in stated if g.places and g.target not in about_joints and _joints(env, g.target)}
    return stated + tuple(Goal("open", name, implied=True) for name in sorted(hinged))


def task_names_of(env: LiberoEnv, goals: tuple[Goal, ...]) -> tuple[str, ...]:
    """Objects and fixtures that the goal or the instruction speaks of, subjects first."""
    known = (*env.object_names, *env.fixture_names)
    mentioned = [name for goal in goals for name in (goal.subject, goal.target) if name]
    chosen = [_owner(name, known) for name in (*mentioned, *env.objects_of_interest)]
    labels = {label(name) for name in chosen if name}
    chosen += [n for n in known if label(n) not in labels and label(n) in env.instruction]
    return tuple(dict.fromkeys(name for name in chosen if name and name != env.raw.workspace_name))


def moving_part(env: LiberoEnv, name: str) -> Part:
    """Of a goal about a joint: the body that its first joint moves."""
    return _part_of(env, _joints(env, name)[0])


def other_parts(env: LiberoEnv, known: Collection[int]) -> dict[str, Part]:
    """Joint -> part, of fixtures' joints but the `known` ones (ids)."""
    names = [name for fixture in env.fixture_names for name in env.raw.get_object(fixture).joints]
    parts = {name: _part_of(env, name) for name in names}
    return {name: part for name, part in parts.items() if part.joint not in known}


def _part_of(env: LiberoEnv, joint_name: str) -> Part:
    joint = env.model.joint(joint_name)
    body = int(env.model.jnt_bodyid[joint.id])
    return Part(body, np.flatnonzero(env.model.geom_bodyid == body), joint.id, int(joint.qposadr[0]))


def _owner(name: str, known: tuple[str, ...]) -> str:
    """The object or fixture that `name` is or is a region of; for a region of the table, what it is named after."""
    fitting = [k for k in known if name == k or name.startswith(k + "_")]
    if fitting and "table" not in fitting[0]:
        return max(fitting, key=len)
    words = set(name.split("_")) - {"table", "region", "main", "1"}
    return next((k for k in known if words & set(k.split("_")) and "table" not in k), "")


def _joints(env: LiberoEnv, name: str) -> list[str]:
    region = env.raw.object_sites_dict.get(name)
    if region is not None:
        return list(region.joints or ())  # None for regions of a table
    return list(env.raw.get_object(name).joints) if name in env.fixture_names else []
