"""What the hand touches, read off MuJoCo's lists of contacts at once; robosuite's own check goes by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

_ROBOT = ("robot0", "gripper0")
_OTHER, _LEFT, _RIGHT, _ARM, _KINDS = range(5)


class Touch(NamedTuple):
    """Of T moments and N things."""

    touched: np.ndarray  # bool [T, N]: by any part of the robot
    grasped: np.ndarray  # bool [T, N]: by both finger pads


class HandContacts:
    """Contacts between the robot and N things, each given by its geoms (int [n]); a geom belongs to one thing."""

    def __init__(self, model: mujoco.MjModel, gripper: Any, things: Sequence[np.ndarray]) -> None:
        self._things = len(things)
        self._thing = np.full(model.ngeom, self._things)
        for index, geoms in enumerate(things):
            self._thing[geoms] = index
        names = [model.body(body).name for body in model.geom_bodyid]
        self._kind = np.array([_ARM if name.startswith(_ROBOT) else _OTHER for name in names])
        for kind, pad in ((_LEFT, "left_fingerpad"), (_RIGHT, "right_fingerpad")):
            self._kind[[model.geom(name).id for name in gripper.important_geoms[pad]]] = kind

    def read(self, pairs: Sequence[np.ndarray]) -> Touch:
        """Of T moments. pairs: for each, the geoms of its contacts, int [n, 2], as MuJoCo's last dynamics left them."""
        moment = np.repeat(np.arange(len(pairs)), [len(p) for p in pairs])
        geoms = np.concatenate(pairs)
        seen = np.zeros((len(pairs), self._things + 1, _KINDS), bool)
        seen[moment[:, None], self._thing[geoms], self._kind[geoms[:, ::-1]]] = True
        seen = seen[:, :-1]
        return Touch(np.any(seen[..., _LEFT:], axis=-1), seen[..., _LEFT] & seen[..., _RIGHT])
