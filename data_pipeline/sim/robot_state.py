"""What LIBERO's files record of the robot, read off the simulation's state."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np


def robot_state(data: mujoco.MjData, robot: Any) -> dict[str, np.ndarray]:
    """float64 arrays named as in LIBERO's HDF5: ee_pos [3] (m), ee_ori [3] (axis-angle, rad), ee_states [6] (both),
    gripper_states [2] (m), joint_states [7] (rad). robot: robosuite's."""
    position = data.site_xpos[robot.eef_site_id].copy()
    orientation = _axis_angle(data.body(robot.robot_model.eef_name).xquat)
    return {
        "ee_pos": position,
        "ee_ori": orientation,
        "ee_states": np.concatenate([position, orientation]),
        "gripper_states": data.qpos[robot._ref_gripper_joint_pos_indexes].copy(),
        "joint_states": data.qpos[robot._ref_joint_pos_indexes].copy(),
    }


def _axis_angle(quat_wxyz: np.ndarray) -> np.ndarray:
    """Robosuite's convention: angle in [0, 2 pi], from the quaternion's sign as MuJoCo gives it."""
    w = float(np.clip(quat_wxyz[0], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return quat_wxyz[1:] * (2.0 * np.arccos(w) / sine)
