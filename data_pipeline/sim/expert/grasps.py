"""Exhaustive search for a top-down antipodal grasp in point clouds.

Candidates are every (height, yaw, position) of a lattice over the object. A candidate survives when object points lie
between the fingers, can be gripped, and nothing is where the fingers, the palm and the wrist will be. The cheapest
survivor wins. Deterministic; a few hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.sim.expert.geometry import pointing_down

# The Panda hand, in metres. Axes: `u` the fingers open along it, `w` across the fingers, z up, from the grip site.
_MAX_WIDTH = 0.066
_FINGER_REACH = 0.037  # inner face of an open finger along u
_FINGER_OUTER = 0.068
_FINGER_HALF_DEPTH = 0.011  # along w
_PAD_HALF_DEPTH = 0.010  # the part of a finger that holds
_FINGER_BELOW = 0.014  # how far the tips reach under the grip site
_FINGER_TOP = 0.12
_PALM_HEIGHT = 0.056
_BETWEEN_TOP = 0.030  # the middle of the palm is that high, over its whole length
_PALM_HALF = (0.110, 0.037)  # along u, w; as for the fingers' depth, a margin is added
_WRIST_HEIGHT = 0.15
_WRIST_HALF = (0.10, 0.08)

_DEPTHS = (0.028, 0.022, 0.015, 0.008, 0.003)  # of the grip site below the object's top; the last for a lid's knob
_MIN_HEIGHT = 0.010  # of the grip site above the object's lowest point
_YAWS = np.deg2rad(np.arange(-90, 90, 15))  # against the hand's rest yaw
_SHALLOW = 0.006  # so little of the object between the pads lifts it from above its middle only
_MIDDLE = 0.02
_EDGE_COST = 0.6
_GOOD = 1.0  # a grasp of a smaller cost is taken at once
_MAX_OFF_CENTRE = 0.006
_MIN_CONTACTS = 3
_MIN_COVER = 0.0065
_FULL_COVER = 0.010
_CLEARANCE_RADIUS = 0.25  # obstacles farther away cannot touch the hand
_PIXEL = 0.003
_WRIST_ABOVE = 0.203  # of the wrist above the grip site of a hand that points down
_WRIST_BEHIND = 0.088  # horizontally, towards the shoulder
_ABOVE_GRASP = 0.07  # where the descent begins
_EASY_REACH = 0.63  # from shoulder to wrist; at 0.69 the elbow is straight and the arm locks
_REACH_COST = 16.0  # per metre beyond


@dataclass(frozen=True)
class Search:
    """How finely to look, and how far to stay away from everything."""

    spacing: float  # metres between candidates
    margin: float  # metres, around the palm and along the fingers


ROOMY = Search(0.010, 0.008)
TIGHT = Search(0.010, 0.003)
FINE = Search(0.004, 0.003)


class GraspNotFound(Exception):
    """No top-down grasp of the object is free of collisions."""


@dataclass(frozen=True)
class Grasp:
    """Where the grip site should be before the fingers close."""

    position: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3]
    yaw: float  # of the opening axis, world
    offset: np.ndarray  # [2], position against the object's origin
    cost: float  # smaller is safer; see `_cost`

    def resembles(self, offset: np.ndarray, yaw: float) -> bool:
        """Whether it is nearly the same grasp of the object."""
        return bool(np.linalg.norm(self.offset - offset) < 0.02 and abs(self.yaw - yaw) < 0.3)


def find_grasp(
    object_points: np.ndarray,
    obstacle_points: np.ndarray,
    origin: np.ndarray,
    rest_yaw: float,
    shoulder: np.ndarray,
    failed: tuple[Grasp, ...] = (),
    searches: tuple[Search, ...] = (ROOMY, TIGHT, FINE),
) -> Grasp:
    """The cheapest free grasp.

    object_points [N, 3], obstacle_points [M, 3]; origin [3] of the object; rest_yaw of the hand's opening axis;
    shoulder [3] of the arm; `failed` grasps of the same object are avoided;
    the next of the
    `searches` is tried where the ones before found no good one. Raises GraspNotFound.
    """
    everything = np.concatenate([object_points, _relevant(obstacle_points, origin, object_points[:, 2].min())])
    best: Grasp | None = None
    for search in searches:
        found = _grasps(object_points, everything, origin, rest_yaw, shoulder, failed, search)
        best = min([*found, *([best] if best else [])], key=lambda grasp: grasp.cost, default=None)
        if best is not None and best.cost < _GOOD:
            return best
    if best is None:
        raise GraspNotFound
    return best


def _grasps(
    object_points: np.ndarray,
    everything: np.ndarray,
    origin: np.ndarray,
    rest_yaw: float,
    shoulder: np.ndarray,
    failed: tuple[Grasp, ...],
    search: Search,
) -> Iterator[Grasp]:
    """The cheapest of each height and yaw."""
    low, top = object_points[:, 2].min(), object_points[:, 2].max()
    candidates, centre = _candidates(object_points, search.spacing), object_points.mean(axis=0)
    solid = _narrowest(_flat(object_points)) < _MAX_WIDTH
    for z in sorted({max(top - depth, low + _MIN_HEIGHT) for depth in _DEPTHS}):
        level = _Level.at(z, object_points, everything)
        for turn in _YAWS:
            found, yaw = _search(level, candidates, rest_yaw + turn, search.margin), float(rest_yaw + turn)
            if len(found) == 0:
                continue
            off_centre = np.linalg.norm(found[:, :2] - centre[:2], axis=1)
            cost = _cost(found, off_centre, abs(turn), depth=top - z, solid=solid)
            cost += _failure_cost(found[:, :2] - origin[:2], yaw, failed)
            cost += _reach_cost(found[:, :2], z, shoulder)
            place = found[cost.argmin(), :2]
            rotation = pointing_down(np.array([np.cos(yaw), np.sin(yaw), 0.0]))
            yield Grasp(np.array([*place, z]), rotation, yaw, place - origin[:2], float(cost.min()))


def _flat(points: np.ndarray) -> np.ndarray:
    """Horizontal part [N, 2] of points [M, 3], one point per pixel."""
    pixels = np.round(points[:, :2] / _PIXEL).astype(np.int64) + (1 << 19)
    return points[np.unique((pixels[:, 0] << 20) | pixels[:, 1], return_index=True)[1], :2]


def _relevant(obstacles: np.ndarray, origin: np.ndarray, low: float) -> np.ndarray:
    near = np.linalg.norm((obstacles - origin)[:, :2], axis=1) < _CLEARANCE_RADIUS
    return obstacles[near & (obstacles[:, 2] > low + 0.004)]


def _narrowest(points: np.ndarray) -> float:
    angles = np.deg2rad(np.arange(0, 180, 5))
    return float(np.ptp(points[:, :2] @ np.stack([np.cos(angles), np.sin(angles)]), axis=0).min())


@dataclass(frozen=True)
class _Level:
    """What matters to a hand at one height, each cloud flat, [N, 2]."""

    gripped: np.ndarray  # of the object, between the pads
    fingers: np.ndarray  # beside the fingers
    between: np.ndarray  # under the middle of the palm
    palm: np.ndarray
    wrist: np.ndarray

    @classmethod
    def at(cls, z: float, target: np.ndarray, everything: np.ndarray) -> _Level:
        height = everything[:, 2] - z
        return cls(
            gripped=_flat(target[np.abs(target[:, 2] - z) < _PAD_HALF_DEPTH]),
            fingers=_flat(everything[(height > -_FINGER_BELOW) & (height < _FINGER_TOP)]),
            between=_flat(everything[height > _BETWEEN_TOP]),
            palm=_flat(everything[height > _PALM_HEIGHT]),
            wrist=_flat(everything[height > _WRIST_HEIGHT]),
        )


def _search(level: _Level, candidates: np.ndarray, yaw: float, margin: float) -> np.ndarray:
    """Survivors among candidates [C, 2] at one height and yaw: rows (x, y, width, slope, contacts, cover)."""
    if len(level.gripped) == 0:
        return np.zeros((0, 6))
    axes = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]).T
    places = candidates @ axes
    grips = _grips(level.gripped @ axes, places)
    keep = (grips[:, 0] >= _MIN_CONTACTS) & (grips[:, 4] >= _MIN_COVER)
    keep &= (np.abs(grips[:, 1]) <= _MAX_OFF_CENTRE) & (grips[:, 2] <= _MAX_WIDTH)
    places, grips = places[keep], grips[keep]
    places[:, 0] += grips[:, 1]  # the lattice is coarser than a bowl's wall
    if len(places):
        free = _is_free(level, axes, places, margin)
        places, grips = places[free], grips[free]
    return np.column_stack([places @ axes.T, grips[:, [2, 3, 0, 4]]])


def _candidates(target: np.ndarray, spacing: float) -> np.ndarray:
    low, high = target[:, :2].min(axis=0) - 0.005, target[:, :2].max(axis=0) + 0.006
    xs, ys = (np.arange(low[i], high[i], spacing) for i in range(2))
    return np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2)


def _grips(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What closes between the pads: rows (contacts, mid, width, slope, cover), for places [C, 2] in (u, w).

    `slope` is how much the gripped points lean across the finger, 0 for a face square to it; `cover` is how far they
    reach over the pad's depth, metres: an edge caught by half a pad slips out.
    """
    u = points[None, :, 0] - places[:, None, 0]
    w = points[None, :, 1] - places[:, None, 1]
    inside = (np.abs(w) < _PAD_HALF_DEPTH) & (np.abs(u) < _FINGER_REACH)
    count = inside.sum(axis=1)
    high = np.where(inside, u, -np.inf).max(axis=1)
    low = np.where(inside, u, np.inf).min(axis=1)
    cover = np.where(inside, w, -np.inf).max(axis=1) - np.where(inside, w, np.inf).min(axis=1)
    divisor = np.maximum(count, 1)
    mean_u, mean_w = (np.where(inside, a, 0).sum(axis=1) / divisor for a in (u, w))
    du, dw = (np.where(inside, a - m[:, None], 0) for a, m in ((u, mean_u), (w, mean_w)))
    freedom = np.maximum(count - 1, 1)
    slope = np.abs((du * dw).sum(axis=1) / freedom / ((dw**2).sum(axis=1) / divisor + 1e-8))
    slope = np.where(count > _MIN_CONTACTS, slope, 1.0)
    with np.errstate(invalid="ignore"):
        middle, width = (low + high) / 2, high - low
    middle, width = (np.where(count > 0, a, np.inf) for a in (middle, width))
    return np.column_stack([count, middle, width, slope, cover])


def _is_free(level: _Level, axes: np.ndarray, places: np.ndarray, margin: float) -> np.ndarray:
    """Whether the hand fits at places [C, 2] in (u, w)."""
    depth, length, breadth = _FINGER_HALF_DEPTH + margin, _PALM_HALF[0] + margin, _PALM_HALF[1] + margin
    hits = _hits(level.fingers @ axes, places, (_FINGER_REACH - 0.001, _FINGER_OUTER), depth)
    hits |= _hits(level.between @ axes, places, (-1.0, length), depth)
    hits |= _hits(level.palm @ axes, places, (-1.0, length), breadth)
    hits |= _hits(level.wrist @ axes, places, (-1.0, _WRIST_HALF[0]), _WRIST_HALF[1])
    return np.logical_not(hits)


def _hits(points: np.ndarray, places: np.ndarray, along: tuple[float, float], across: float) -> np.ndarray:
    """Whether any point lies at a distance of `along` (from, to) in u and up to `across` in w; [C]."""
    u = np.abs(points[None, :, 0] - places[:, None, 0])
    w = np.abs(points[None, :, 1] - places[:, None, 1])
    return np.any((w < across) & (u > along[0]) & (u < along[1]), axis=1)


def _cost(found: np.ndarray, off_centre: np.ndarray, turn: float, *, depth: float, solid: bool) -> np.ndarray:
    """Solid objects are held near their centre; others (bowls, mugs, pots) by a thin part, not too far from it."""
    width, slope, contacts = found[:, 2], found[:, 3], found[:, 4]
    cost = 1.2 * np.minimum(slope, 2) + 0.35 * turn + 12 * (_DEPTHS[0] - min(_DEPTHS[0], depth))
    cost = cost + _EDGE_COST * ((depth < _SHALLOW) & (off_centre > _MIDDLE))
    cost = cost - 0.002 * np.minimum(contacts, 30) + 1.5 * (1 - np.minimum(found[:, 5] / _FULL_COVER, 1))
    return cost + (8 * off_centre + width if solid else 5 * off_centre + 10 * width)


def _reach_cost(places: np.ndarray, z: float, shoulder: np.ndarray) -> np.ndarray:
    """For hands that descend to places [C, 2] at height z."""
    out = np.linalg.norm(places - shoulder[:2], axis=1) - _WRIST_BEHIND
    return _REACH_COST * np.maximum(np.hypot(out, z + _ABOVE_GRASP + _WRIST_ABOVE - shoulder[2]) - _EASY_REACH, 0)


def _failure_cost(offsets: np.ndarray, yaw: float, failed: tuple[Grasp, ...]) -> np.ndarray:
    cost = np.zeros(len(offsets))
    for grasp in failed:
        if abs(grasp.yaw - yaw) < 0.3:
            cost += 2.0 * (np.linalg.norm(offsets - grasp.offset, axis=1) < 0.02)
    return cost
