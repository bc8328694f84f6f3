"""What the hand touches, read off MuJoCo's list of contacts at once; robosuite's own check goes through it by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

_ROBOT = ("robot0", "gripper0")
_OTHER, _LEFT, _RIGHT, _ARM, _KINDS = range(5)


class HandContacts:
    """Contacts between the robot and N things, each given by its geoms (int [n]); a geom belongs to one thing."""

    def __init__(self, model: mujoco.MjModel, gripper: Any, things: Sequence[np.ndarray]) -> None:
        self._thing = np.full(model.ngeom, len(things))
        for index, geoms in enumerate(things):
            self._thing[geoms] = index
        names = [model.body(body).name for body in model.geom_bodyid]
        self._kind = np.array([_ARM if name.startswith(_ROBOT) else _OTHER for name in names])
        for kind, pad in ((_LEFT, "left_fingerpad"), (_RIGHT, "right_fingerpad")):
            self._kind[[model.geom(name).id for name in gripper.important_geoms[pad]]] = kind
        self._seen = np.zeros((len(things) + 1, _KINDS), bool)

    def update(self, data: mujoco.MjData) -> None:
        """Look at the contacts that the last dynamics computed."""
        pairs = data.contact.geom
        self._seen[:] = False
        self._seen[self._thing[pairs], self._kind[pairs[:, ::-1]]] = True

    @property
    def touched(self) -> np.ndarray:
        """Bool [N]: any part of the robot touches it."""
        return np.any(self._seen[:-1, _LEFT:], axis=1)

    @property
    def grasped(self) -> np.ndarray:
        """Bool [N]: both finger pads touch it."""
        return self._seen[:-1, _LEFT] & self._seen[:-1, _RIGHT]
