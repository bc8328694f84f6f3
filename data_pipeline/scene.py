"""What the simulator knows about an episode, as plain arrays: the seam between `sim/features.py` and everything that
only computes. numpy only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_pipeline.contract import EpisodeId

PLACE = frozenset({"on", "in"})


@dataclass(frozen=True)
class Goal:
    """One BDDL predicate, in lower case; the four suites use on, in, open, close, turnon."""

    predicate: str
    subject: str  # an object, a fixture, or a fixture's region
    target: str = ""  # an object or a region; only of on and in
    implied: bool = field(default=False, compare=False)  # not part of the BDDL goal itself

    @property
    def places(self) -> bool:
        """Whether it is about where an object lies (otherwise about a joint)."""
        return self.predicate in PLACE

    @property
    def words(self) -> list[str]:
        """As LIBERO gives a predicate: its name, then what it is about."""
        return [self.predicate, *filter(None, [self.subject, self.target])]


@dataclass(frozen=True)
class SceneTrack:
    """Exact features of one episode, T steps, N task objects and fixtures, G goals. World: +x forward, +y left, +z up.

    Points and boxes are continuous on the POINT_GRID of the ROT180 frame of agentview.
    """

    episode: EpisodeId
    file: str  # name of the HDF5 file
    instruction: str
    goals: tuple[Goal, ...]  # the BDDL goal, then conditions it implies (an opened drawer)
    names: tuple[str, ...]  # N BDDL instance names
    position: np.ndarray  # float [T, N, 3], m, body origins
    grasped: np.ndarray  # bool [T, N]: both finger pads touch it
    box: np.ndarray  # float [T, N, 4]: x0, y0, x1, y1 around the visible pixels; NaN where there are none
    visible: np.ndarray  # float [T, N], visible share of its silhouette, 0 to 1
    grip_position: np.ndarray  # float [T, 3], m
    grip_rotation: np.ndarray  # float [T, 3, 3], hand to world
    grip_point: np.ndarray  # float [T, 2]
    grip_visible: np.ndarray  # bool [T]: nothing in front of it
    finger_opening: np.ndarray  # float [T], m, between the finger joints
    gripper_command: np.ndarray  # float [T], -1 open, +1 close
    target: np.ndarray  # float [T, G, 3], m: where a goal is reached: its region or object, or the part that moves
    holds: np.ndarray  # bool [T, G], LIBERO's own predicate
    joint: np.ndarray  # float [T, G], rad or m, of goals about joints; NaN of others

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.grip_position)

    def index(self, name: str) -> int:
        """Column of an object or fixture, or of the fixture that a region belongs to. KeyError if there is none."""
        owner = next((i for i, known in enumerate(self.names) if name == known or name.startswith(known + "_")), None)
        if owner is None:
            raise KeyError(f"{name} is none of {', '.join(self.names)}")
        return owner


@dataclass(frozen=True)
class Moment:
    """What one rendering knows: surfaces in UPRIGHT pixels, and where every geom and the camera are.

    The camera follows OpenGL: it looks along -z, y up.
    """

    depth_m: np.ndarray  # float32 [H, W], planar (along the optical axis), not radial
    geom: np.ndarray  # int [H, W], geom id, -1 where there is none
    geom_position: np.ndarray  # float [G, 3], metres, world
    geom_rotation: np.ndarray  # float [G, 3, 3], geom to world
    camera_position: np.ndarray  # float [3]
    camera_rotation: np.ndarray  # float [3, 3], camera to world
    focal_px: float
