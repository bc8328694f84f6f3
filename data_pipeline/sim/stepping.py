"""One control step of robosuite, without what nobody reads.

robosuite evaluates the whole dynamics three times per substep of 2 ms: in the environment, in the controller and in
MuJoCo's own step. Positions, velocities and contacts are the same in all three; only the constraint solver must run
each time, because each run warm-starts the next. `exact` therefore computes the first part once and solves three
times: bit for bit robosuite's states. `fast` solves once: not bit-exact in contact.

The first substep of a step goes through robosuite, which sets the controller's goal; the others need only the torques
that follow from it, which `_Arm` computes with robosuite's own formulas and kernels, without its look-ups by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from configs.schema import Stepping

_AFTER_VELOCITIES = mujoco.mjtStage.mjSTAGE_VEL.value


class Stepper:
    """Steps a robosuite environment that has one arm under OSC_POSE. Call `attach` after each of its resets."""

    def __init__(self, raw: Any, stepping: Stepping) -> None:
        self._raw, self._exact = raw, stepping is Stepping.EXACT
        self._model: mujoco.MjModel = raw.sim.model._model
        self._data: mujoco.MjData = raw.sim.data._data
        self._substeps = int(raw.control_timestep / raw.model_timestep)
        self._sim = _Unforwarded(raw.sim, self._solve_again if self._exact else _nothing)
        self.attach()

    def attach(self) -> None:
        """Give robosuite's new controller (one per reset) a simulation that does not start from scratch."""
        self._raw.robots[0].controller.sim = self._sim
        self._arm = _Arm(self._raw.robots[0], self._model, self._data)

    def step(self, action: np.ndarray) -> None:
        """action: float64 [7] in [-1, 1]."""
        raw, model, data = self._raw, self._model, self._data
        for substep in range(self._substeps):
            if self._exact:
                mujoco.mj_forward(model, data)
            else:
                mujoco.mj_step1(model, data)
            if substep == 0:
                raw._pre_action(action, policy_step=True)
            else:
                self._sim.forward()
                self._arm.control(action)
            if self._exact:
                self._solve_again()
                mujoco.mj_checkAcc(model, data)
                mujoco.mj_Euler(model, data)
            else:
                mujoco.mj_step2(model, data)
        raw.timestep += 1
        raw.cur_time += raw.control_timestep
        raw._post_process()

    def _solve_again(self) -> None:
        mujoco.mj_forwardSkip(self._model, self._data, _AFTER_VELOCITIES, 1)


class _Arm:
    """What robosuite's `robot.control` does between two new goals."""

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self._controller, self._gripper = robot.controller, robot.gripper
        self._site: int = robot.eef_site_id
        self._qpos, self._qvel = robot._ref_joint_pos_indexes, robot._ref_joint_vel_indexes
        self._motors = np.asarray(robot._ref_joint_actuator_indexes)
        self._fingers = np.asarray(robot._ref_joint_gripper_actuator_indexes)
        self._torque_low, self._torque_high = model.actuator_ctrlrange[self._motors].T
        finger_low, finger_high = model.actuator_ctrlrange[self._fingers].T
        self._finger_bias, self._finger_weight = 0.5 * (finger_high + finger_low), 0.5 * (finger_high - finger_low)
        self._jacobian = np.zeros((2, 3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def control(self, action: np.ndarray) -> None:
        """Set the motors' controls from the present state and the goal set before."""
        fingers = self._gripper.format_action(action[6:])
        self._data.ctrl[self._motors] = np.clip(self._torques(), self._torque_low, self._torque_high)
        self._data.ctrl[self._fingers] = self._finger_bias + self._finger_weight * fingers

    def _torques(self) -> np.ndarray:
        """Operational-space control as robosuite's OSC computes it: float64 [7], N m."""
        data, goal = self._data, self._controller
        mujoco.mj_jacSite(self._model, data, self._jacobian[0], self._jacobian[1], self._site)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        velocity, turning = self._jacobian[0] @ data.qvel, self._jacobian[1] @ data.qvel
        j_pos, j_ori = (np.array(part[:, self._qvel]) for part in self._jacobian)
        j_full = np.vstack([j_pos, j_ori])
        mass = self._mass[self._qvel, :][:, self._qvel]
        off = goal.goal_pos - data.site_xpos[self._site]
        turned = orientation_error(goal.goal_ori, data.site_xmat[self._site].reshape(3, 3).copy())
        force = off * goal.kp[:3] + -velocity * goal.kd[:3]
        torque = turned * goal.kp[3:] + -turning * goal.kd[3:]
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass, j_full, j_pos, j_ori)
        wrench = np.concatenate([lambda_pos @ force, lambda_ori @ torque])
        torques = j_full.T @ wrench + data.qfrc_bias[self._qvel]
        joints = data.qpos[self._qpos], data.qvel[self._qvel]
        return torques + nullspace_torques(mass, nullspace, goal.initial_joint, *joints)


class _Unforwarded:
    """A robosuite MjSim whose `forward` is replaced."""

    def __init__(self, sim: Any, forward: Callable[[], None]) -> None:
        self._sim, self.forward = sim, forward
        self.model, self.data = sim.model, sim.data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sim, name)


def _nothing() -> None:
    """In `fast` the positions and velocities are already there."""
