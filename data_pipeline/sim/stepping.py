"""One control step of robosuite, without what nobody reads.

robosuite evaluates the whole dynamics three times per substep of 2 ms: in the environment, in the controller and in
MuJoCo's own step. Positions, velocities and contacts are the same in all three; only the constraint solver must run
each time, because each run warm-starts the next. `exact` therefore computes the first part once and solves three
times: bit for bit robosuite's states. `fast` solves once: not bit-exact in contact.

`_Arm` computes the controls with robosuite's own formulas and kernels, in its order of operations, but without its
look-ups by name, its copies and its buffers of recent values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from configs.choices import Stepping

_FROM_THE_START = mujoco.mjtStage.mjSTAGE_NONE.value
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
        raw, model, data, arm = self._raw, self._model, self._data, self._arm
        for substep in range(self._substeps):
            if self._exact:
                mujoco.mj_forwardSkip(model, data, _FROM_THE_START, 1)  # 1: no sensors, nobody reads them
            else:
                mujoco.mj_step1(model, data)
            if substep == 0 and not arm.fresh:
                raw._pre_action(action, policy_step=True)
                arm.aim(action)
            else:
                self._sim.forward()
                if substep == 0:
                    arm.set_goal(action)
                arm.control()
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
    """What robosuite's `robot.control` does. Arrays without a comment are views of MuJoCo's own memory.

    Jacobians and mass matrix are laid out by columns, as robosuite's indexing leaves them: to BLAS that is another
    product, with other last bits.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self._controller, self._gripper = robot.controller, robot.gripper
        self._site: int = robot.eef_site_id
        self._position, self._frame = data.site_xpos[self._site], data.site_xmat[self._site].reshape(3, 3)
        self._velocities = data.qvel
        joints, dofs = _span(robot._ref_joint_pos_indexes), _span(robot._ref_joint_vel_indexes)
        self._qpos, self._qvel, self._bias = data.qpos[joints], data.qvel[dofs], data.qfrc_bias[dofs]
        motors, fingers = _span(robot._ref_joint_actuator_indexes), _span(robot._ref_joint_gripper_actuator_indexes)
        self._motors, self._fingers = data.ctrl[motors], data.ctrl[fingers]
        self._torque_low, self._torque_high = model.actuator_ctrlrange[motors].T.copy()
        finger_low, finger_high = model.actuator_ctrlrange[fingers].T
        self._finger_middle, self._finger_weight = 0.5 * (finger_high + finger_low), 0.5 * (finger_high - finger_low)
        self._all_linear, self._all_angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._linear, self._angular = self._all_linear[:, dofs], self._all_angular[:, dofs]  # views of these
        self._all_mass = np.zeros((model.nv, model.nv))
        self._mass = self._all_mass[dofs, dofs]  # a view of it
        self._grip = np.zeros(2)  # how far each finger's command moves per substep

    @property
    def fresh(self) -> bool:
        """False in the first step after a reset, where robosuite's controller goes by what it saw at the reset."""
        return self._controller.new_update

    def set_goal(self, action: np.ndarray) -> None:
        """A new control step: what the controller is to reach, from where the hand is now."""
        controller = self._controller
        controller.ee_pos, controller.ee_ori_mat = self._position.copy(), self._frame.copy()
        controller.new_update = False  # these are all that it needs
        controller.set_goal(action[:6])
        controller.new_update = True
        self.aim(action)

    def aim(self, action: np.ndarray) -> None:
        """Note which way the fingers go."""
        self._grip = np.array([-1.0, 1.0]) * self._gripper.speed * np.sign(action[6:])

    def control(self) -> None:
        """Set the motors' controls from the present state and the goal."""
        gripper = self._gripper
        gripper.current_action = np.minimum(np.maximum(gripper.current_action + self._grip, -1.0), 1.0)
        np.minimum(np.maximum(self._torques(), self._torque_low), self._torque_high, out=self._motors)
        self._fingers[:] = self._finger_middle + self._finger_weight * gripper.current_action

    def _torques(self) -> np.ndarray:
        """Operational-space control as robosuite's OSC computes it: float64 [7], N m."""
        goal = self._controller
        mujoco.mj_jacSite(self._model, self._data, self._all_linear, self._all_angular, self._site)
        mujoco.mj_fullM(self._model, self._all_mass, self._data.qM)
        velocity, turning = self._all_linear @ self._velocities, self._all_angular @ self._velocities
        j_full = np.empty((6, 7), order="F")
        j_full[:3], j_full[3:] = self._linear, self._angular
        j_pos, j_ori = self._linear.copy("F"), self._angular.copy("F")
        mass = self._mass.copy("F")
        turned = orientation_error(goal.goal_ori, self._frame.copy())
        force = (goal.goal_pos - self._position) * goal.kp[:3] + -velocity * goal.kd[:3]
        torque = turned * goal.kp[3:] + -turning * goal.kd[3:]
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass, j_full, j_pos, j_ori)
        wrench = np.concatenate((lambda_pos @ force, lambda_ori @ torque))
        idle = nullspace_torques(mass, nullspace, goal.initial_joint, self._qpos, self._qvel)
        return j_full.T @ wrench + self._bias + idle


def _span(indexes: Any) -> slice:
    """Neighbouring numbers as a slice: a view instead of a copy."""
    numbers = [int(index) for index in indexes]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
    return slice(numbers[0], numbers[-1] + 1)


class _Unforwarded:
    """A robosuite MjSim whose `forward` is replaced."""

    def __init__(self, sim: Any, forward: Callable[[], None]) -> None:
        self._sim, self.forward = sim, forward
        self.model, self.data = sim.model, sim.data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sim, name)


def _nothing() -> None:
    """In `fast` the positions and velocities are already there."""
