"""When an episode does what: events of a SceneTrack (grasp, lift, release, a joint starts, a predicate holds) and the
segments between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.scene import SceneTrack

GRASP_STEPS = 2  # both pads in contact this long is a grasp
OPENING_STEPS = 4  # the fingers need a moment to open; a wide thing they touch longer, and it is let go all the same
LIFT_M = 0.01
MOVING_M = 0.001  # per step
DRIFT_SHARE = 0.3  # of its speed, that a carried thing may move against the hand
CARRIED_M = 0.03  # sideways, from where it was lifted
OVER_M = 0.025  # sideways, from where it is let go
FIST_M = 0.04  # that a closed hand may move before the joint starts and still be said to have grasped
PUSHED_M = 0.01
JOINT_SHARE = 0.05  # of a joint's whole travel: it has surely started
STILL_JOINT, MOVED_JOINT = 5e-4, 1e-3  # per step and in all, rad or m
RETRACT_STEPS = 8  # between two grasps, at least, before the hand turns to the next
LEFT_M = 0.02  # off the last thing
REST_M, REST_STEPS = 0.002, 4  # per step; how long
MAX_COSINE = 0.7  # of two directions that are not the same
ASIDE_M = 0.1  # sideways from its target; what is let go farther off was not meant to stay there


@dataclass(frozen=True)
class Segment:
    """Steps start <= t < stop in which one thing is done for one goal."""

    start: int
    stop: int
    kind: str  # reach, grasp, lift, move, place, set aside, push, reach/grasp handle, open, close, turn on, retract
    goal: int  # index in SceneTrack.goals


@dataclass(frozen=True)
class _Activity:
    """The stretch in which a goal's own thing is handled."""

    goal: int
    start: int
    stop: int
    held: bool = False
    aside: bool = False  # let go elsewhere, and grasped again later


def segment(track: SceneTrack) -> tuple[Segment, ...]:
    """Segments that cover 0..T without gaps, in order. An episode in which nothing is handled is one reach."""
    activities = sorted((a for g in range(len(track.goals)) for a in _activities(track, g)), key=lambda a: a.start)
    if not activities:
        return (Segment(0, track.num_steps, _first_kind(track, 0), 0),)
    segments: list[Segment] = []
    start = 0
    for index, activity in enumerate(activities):
        following = activities[index + 1] if index + 1 < len(activities) else None
        stop = track.num_steps if following is None else _turn(track, activity, following)
        segments += _window(track, activity, start, stop)
        start = stop
    return tuple(s for s in segments if s.stop > s.start)


def _turn(track: SceneTrack, activity: _Activity, following: _Activity) -> int:
    """Step at which the hand turns to the next thing, RETRACT_STEPS on at the earliest.

    Off the last thing it then goes another way than before, or has rested; or else it is farthest from the next thing.
    """
    goal, earliest = track.goals[following.goal], min(activity.stop + RETRACT_STEPS, following.start)
    if earliest <= activity.stop:
        return activity.stop
    path = track.grip_position[activity.stop : following.start + 1]
    steps, off = np.diff(path, axis=0), np.linalg.norm(path - path[0], axis=-1)
    speed, left = np.linalg.norm(steps, axis=-1), int(np.argmax(off > LEFT_M))
    if off[left] > LEFT_M:
        elsewhere = steps @ (path[left] - path[0]) / off[left] < MAX_COSINE * speed
        turned = [start for start, _ in _runs((speed >= REST_M) & elsewhere, left, 2)]
        rested = [stop for _, stop in _runs(speed < REST_M, left, REST_STEPS)]
        if found := sorted(s for s in turned + rested if s < len(speed)):
            return max(activity.stop + found[0], earliest)
    thing = track.position[:, track.index(goal.subject)] if goal.places else track.target[:, following.goal]
    away = np.linalg.norm(thing - track.grip_position, axis=-1)[activity.stop : following.start]
    return max(activity.stop + int(np.argmax(away)), earliest)


def _runs(flags: np.ndarray, first: int, least: int) -> list[tuple[int, int]]:
    """Stretches of at least `least` steps, of those from `first` on."""
    return [(first + a, first + b) for a, b in stretches(flags[first:]) if b - a >= least]


def grasps(track: SceneTrack, subject: int) -> list[tuple[int, int]]:
    """Stretches [start, stop) in which the thing in column `subject` is held.

    Within one closing of the gripper, from the first to the last step at which both pads touch it, or at which it is
    off its place and moves with the hand (a rim may lie against the finger beside the pad).
    """
    touched = lasting(track.grasped[:, subject])
    holding = touched | _carried(track, subject)
    runs = []
    for start, stop in stretches(track.gripper_command > 0):
        steps = np.flatnonzero(holding[start:stop])
        if len(steps):
            last = start + int(steps[-1]) + 1
            latest = min(stop + OPENING_STEPS, track.num_steps)
            while stop <= last < latest and touched[last]:
                last += 1
            runs.append((start + int(steps[0]), last))
    return runs


def lasting(touching: np.ndarray) -> np.ndarray:
    """Without touches shorter than GRASP_STEPS. touching: bool [T]."""
    lasting = np.zeros_like(touching)
    for start, stop in stretches(touching):
        lasting[start:stop] = stop - start >= GRASP_STEPS
    return lasting


def stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches [start, stop) of true values. flags: bool [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _carried(track: SceneTrack, subject: int) -> np.ndarray:
    """Steps at which a thing is raised and moves as the hand does: bool [T]."""
    path = track.position[:, subject]
    raised = path[:, 2] - path[0, 2] > LIFT_M
    drift = np.linalg.norm(np.diff(path - track.grip_position, axis=0, append=np.nan), axis=-1)
    speed = np.linalg.norm(np.diff(path, axis=0, append=np.nan), axis=-1)
    return raised & (speed > MOVING_M) & (drift < DRIFT_SHARE * speed)


def _first_kind(track: SceneTrack, goal: int) -> str:
    return "reach" if track.goals[goal].places else "reach handle"


def _activities(track: SceneTrack, goal: int) -> list[_Activity]:
    """What the episode does about a goal: every grasp that lifts its thing, one push, or one turn of its joint."""
    if not track.goals[goal].places:
        start = joint_start(track, goal)
        return [] if start is None else [_Activity(goal, start, _let_go(track, goal))]
    subject = track.index(track.goals[goal].subject)
    path = track.position[:, subject]
    runs = grasps(track, subject)
    lifting = [run for run in runs if np.max(path[slice(*run), 2] - path[run[0], 2]) > LIFT_M]
    if runs:
        kept = lifting or [max(runs, key=lambda run: run[1] - run[0])]
        far = [np.linalg.norm((path - track.target[:, goal])[stop - 1, :2]) > ASIDE_M for _, stop in kept]
        aside = [*far[:-1], False]
        return [_Activity(goal, *run, held=True, aside=bool(off)) for run, off in zip(kept, aside, strict=True)]
    moved = np.linalg.norm(path - path[0], axis=-1) > PUSHED_M
    return [_Activity(goal, int(np.argmax(moved)), _achieved(track, goal))] if moved.any() else []


def joint_start(track: SceneTrack, goal: int) -> int | None:
    """Step at which the joint that a goal is about sets out for good; None if it never does, or need not.

    What it is shaken before, by a hand that puts something into the drawer, does not count.
    """
    if track.goals[goal].places or track.holds[0, goal]:
        return None
    joint, moving = track.joint[:, goal], _turning(track, goal)
    last = min(_achieved(track, goal), track.num_steps - 1)
    way = joint[last] - joint[0]
    if abs(way) < MOVED_JOINT:
        return None
    start = int(np.flatnonzero((joint[:last] - joint[0]) / way <= JOINT_SHARE)[-1])
    while start > 0 and moving[start - 1]:
        start -= 1
    return start


def _turning(track: SceneTrack, goal: int) -> np.ndarray:
    """Steps during which the joint of a goal moves: bool [T]."""
    return np.abs(np.diff(track.joint[:, goal], append=np.nan)) > STILL_JOINT


def _let_go(track: SceneTrack, goal: int) -> int:
    """When the hand is done with a joint: the goal is reached, and it turns it no further; T if that is the end."""
    stop, moving = _achieved(track, goal), _turning(track, goal)
    while stop < track.num_steps and moving[stop] and track.gripper_command[stop] > 0:
        stop += 1
    return stop


def lifted_at(path: np.ndarray) -> int:
    """Offset at which a grasped thing has moved by LIFT_M; n if it never does. path: float [n, 3]."""
    lifted = np.linalg.norm(path - path[0], axis=-1) > LIFT_M
    return int(np.argmax(lifted)) if lifted.any() else len(path)


def _achieved(track: SceneTrack, goal: int) -> int:
    """First step at which the predicate holds, T if only the last action achieves it."""
    holds = track.holds[:, goal]
    return int(np.argmax(holds)) if holds.any() else track.num_steps


def _window(track: SceneTrack, activity: _Activity, start: int, stop: int) -> list[Segment]:
    goal = track.goals[activity.goal]
    subject = track.index(goal.subject)
    begin = max(activity.start, start)
    closing = _closing(track, start, begin)
    if not goal.places:
        if np.linalg.norm(np.diff(track.grip_position[[closing, min(begin, track.num_steps - 1)]], axis=0)) > FIST_M:
            closing = begin  # a fist that pushes, not a grasp
        act = {"open": "open", "close": "close", "turnon": "turn on"}[goal.predicate]
        marks = [(start, "reach handle"), (closing, "grasp handle"), (begin, act), (activity.stop, "retract")]
    elif not activity.held:
        marks = [(start, "reach"), (begin, "push"), (activity.stop, "retract")]
    else:
        lift, move, place = _carrying(track.position[begin : activity.stop, subject])
        marks = [(start, "reach"), (closing, "grasp"), (begin + lift, "lift"), (begin + move, "move")]
        marks += [(begin + place, "place"), (activity.stop, "retract")]
        if activity.aside:
            marks = [(step, "set aside" if kind == "move" else kind) for step, kind in marks if kind != "place"]
    stops = [first for first, _ in marks[1:]] + [stop]
    return [Segment(a, b, kind, activity.goal) for (a, kind), b in zip(marks, stops, strict=True)]


def _closing(track: SceneTrack, start: int, begin: int) -> int:
    """Step of the last command to close before `begin`; `begin` itself if the gripper was closed all along."""
    is_open = np.flatnonzero(track.gripper_command[start:begin] <= 0)
    return min(start + int(is_open[-1]) + 1, begin) if len(is_open) else begin


def _carrying(path: np.ndarray) -> tuple[int, int, int]:
    """Offsets of lifting, moving and placing in the path of a grasped thing: float [n, 3], ordered, at most n."""
    count = len(path)
    lift = lifted_at(path)
    sideways = np.linalg.norm(path[:, :2] - path[0, :2], axis=-1)
    farthest = int(np.argmax(sideways))
    leaves = np.flatnonzero(sideways[: farthest + 1] <= CARRIED_M)[-1] + 1  # for good: a stretched arm swings
    high = np.flatnonzero(path[lift:, 2] - path[0, 2] > 0.9 * np.ptp(path[:, 2])) + lift
    move = max(lift, min(int(leaves), int(high[0]) if len(high) else count)) if farthest else count
    far = np.flatnonzero(np.linalg.norm(path[:, :2] - path[-1, :2], axis=-1) > OVER_M)
    place = max(move, int(far[-1]) + 1 if len(far) else 0)
    return lift, move, min(place, count)
