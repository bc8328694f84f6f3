"""One LIBERO task as an environment that depends on nothing but (task, initial state, seed) and the actions given.

Differences from LIBERO's own wrapper: a reset compiles nothing and is seeded; nothing is drawn unless asked for;
observations are read off the state after a step, not sampled during it; exceptions come out.
"""

from __future__ import annotations

import hashlib
from typing import Any

from data_pipeline.sim.boot import boot, quiet

boot()  # the imports below read the environment variables that it sets

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
from robosuite.utils.errors import RandomizationError  # noqa: E402

from configs.choices import Subset  # noqa: E402
from configs.data import EnvConfig  # noqa: E402
from data_pipeline import libero_utils  # noqa: E402
from data_pipeline.contract import ACTION_DIM, GRIPPER_OPEN, EnvironmentProblem, SimulationUnstableError  # noqa: E402
from data_pipeline.sim import assets, rendering  # noqa: E402
from data_pipeline.sim.fingerprint import fingerprint  # noqa: E402
from data_pipeline.sim.hand_contacts import HandContacts  # noqa: E402
from data_pipeline.sim.milestones import Tracker  # noqa: E402
from data_pipeline.sim.perturbation import Unperturbed  # noqa: E402
from data_pipeline.sim.problem import build_problem, compiled_poses, official_init_states  # noqa: E402
from data_pipeline.sim.rendering import Camera, Renderer  # noqa: E402
from data_pipeline.sim.robot_state import robot_state  # noqa: E402
from data_pipeline.sim.stepping import Stepper  # noqa: E402

NO_OP = np.array([0.0] * (ACTION_DIM - 1) + [GRIPPER_OPEN])
"""Stay where you are, gripper open."""

_PLACEMENT_ATTEMPTS = 20
_WARNING = mujoco.mjtWarning
_BLOWN_UP = [_WARNING.mjWARN_BADQPOS.value, _WARNING.mjWARN_BADQVEL.value, _WARNING.mjWARN_BADQACC.value]


class LiberoEnv:
    """One task. Construction takes seconds, a reset milliseconds. Not to be shared between threads."""

    def __init__(self, subset: Subset, task_id: int, config: EnvConfig) -> None:
        self.subset, self.task_id, self.config = subset, task_id, config
        self.task_name: str = libero_utils.task_names(subset)[task_id]
        self.instruction: str = libero_utils.instruction(self.task_name)
        self.assets = assets.resolve(config.assets)
        self.raw: Any = build_problem(str(assets.bddl_file(subset, self.task_name)), self.assets)
        self._init_states = official_init_states(subset, self.task_name)
        self.model: mujoco.MjModel = self.raw.sim.model._model  # robosuite wraps it, field by field
        self.data: mujoco.MjData = self.raw.sim.data._data
        self.goal: tuple[tuple[str, ...], ...] = tuple(
            (predicate.capitalize(), *names) for predicate, *names in self.raw.parsed_problem["goal_state"]
        )
        # as the BDDL file lists them: objects, fixtures, and for some tasks regions of these
        self.objects_of_interest: tuple[str, ...] = tuple(self.raw.obj_of_interest)
        self.object_names: tuple[str, ...] = tuple(self.raw.objects_dict)
        self.fixture_names: tuple[str, ...] = tuple(self.raw.fixtures_dict)
        self.held_goals: tuple[bool, ...] = ()  # which predicates of `goal` the last step left true
        self._fixtures = {name: self.body_of(name) for name in self.fixture_names}
        self._pristine_poses = compiled_poses(self.raw, self.model, self._fixtures.values())
        self._unperturbed = Unperturbed(self.model)
        self._stepper = Stepper(self.raw, config.stepping)
        self._contacts = HandContacts(self.model, self._robot.gripper, list(map(self.geoms_of, self.object_names)))
        self._renderer: Renderer | None = None
        rendering.apply_look(self.model, config.look)

    # -------------------------------------------------------------- episodes

    @property
    def num_init_states(self) -> int:
        """Official initial states of this task (50)."""
        return len(self._init_states)

    def init_state(self, index: int) -> np.ndarray:
        """Official initial state: float64 [S], a copy. Raises IndexError past `num_init_states`."""
        return self._init_states[index].copy()

    def reset(self, seed: int, init_state: int | np.ndarray | None = None) -> None:
        """Begin an episode. Nothing of the previous one survives.

        init_state: the number of an official one; or a flattened state, float64 [S]; or None: objects are placed by
        sampling the BDDL regions. Fixtures are always placed by sampling. All draws come from (task, number of the
        initial state, seed); a given array counts as no number. Does not settle.
        Raises EnvironmentProblem if no valid placement is found.
        """
        label = init_state if isinstance(init_state, (int, np.integer)) else "none"
        for attempt in range(_PLACEMENT_ATTEMPTS):
            np.random.seed(_seed(self.subset, self.task_id, label, seed, attempt))  # noqa: NPY002 - LIBERO reads it
            try:
                self._reset_raw()
                break
            except RandomizationError:
                continue
        else:
            raise EnvironmentProblem(
                f"{self.task_name}: no valid placement in {_PLACEMENT_ATTEMPTS} tries, seed {seed}"
            )
        if init_state is None:
            self._refresh()
        else:
            state = self._init_states[init_state] if isinstance(init_state, (int, np.integer)) else init_state
            self.set_state(np.asarray(state, np.float64))

    def settle(self, steps: int = 10) -> None:
        """Let objects come to rest: no-op actions with the gripper open."""
        for _ in range(steps):
            self.step(NO_OP)

    def step(self, action: np.ndarray) -> bool:
        """One control step (50 ms). action: float [7] in [-1, 1], clipped. Returns success now; draws nothing.

        Raises ValueError for another shape or an action that is not finite, SimulationUnstableError where the physics
        blew up.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise ValueError(f"an action has {ACTION_DIM} finite numbers, got {action}")
        self._stepper.step(np.clip(action, -1.0, 1.0))
        if self.data.warning.number[_BLOWN_UP].any():  # counted since the reset
            raise SimulationUnstableError(f"{self.task_name}: the simulation became unstable and started over")
        self.held_goals = self.goals_hold()
        self._place()  # after the last substep, not before it
        return all(self.held_goals)

    def success(self) -> bool:
        """Whether the BDDL goal holds now. Not latched."""
        return all(self.goals_hold())

    def goals_hold(self) -> tuple[bool, ...]:
        """Which predicates of `goal` hold now; a goal is their conjunction."""
        return tuple([self.holds(predicate) for predicate in self.raw.parsed_problem["goal_state"]])

    def holds(self, predicate: list[str]) -> bool:
        """Whether a predicate holds now, LIBERO's own: name in lower case, then what it is about."""
        return bool(self.raw._eval_predicate(predicate))

    def tracker(self) -> Tracker:
        """Watches episodes of this environment for their milestones."""
        return Tracker(self)

    def close(self) -> None:
        """Free what is held outside Python. Call it before the interpreter ends."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # -------------------------------------------------------------- pictures

    def render(self, camera: str) -> np.ndarray:
        """uint8 [R, R, 3], ImageFrame.GL."""
        return self._drawing().colour(self.data, self._camera_id(camera))

    def render_depth(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Planar depth float32 [R, R] in metres and geom ids int32 [R, R] (-1: none); both ImageFrame.GL."""
        return self._drawing().depth_and_ids(self.data, self._camera_id(camera))

    def camera(self, name: str) -> Camera:
        """Where a camera is now and how it projects."""
        return rendering.camera(self.model, self.data, self._camera_id(name), self.config.resolution)

    def fingerprint(self) -> dict[str, Any]:
        """See `data_pipeline.sim.fingerprint`. Makes the GL context if there is none yet."""
        return fingerprint(self.config, self.assets, self._drawing().device())

    # -------------------------------------------------------------- state

    def state(self) -> np.ndarray:
        """float64 [S]: time, qpos, qvel."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        """Inverse of `state`; everything derived is computed anew. Controller and fixtures stay as they are.

        Raises ValueError for a state of another length.
        """
        expected = 1 + self.model.nq + self.model.nv
        if state.shape != (expected,):
            raise ValueError(f"{self.task_name}: a state has shape ({expected},), got {state.shape}")
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self.data.qvel[:] = state[1 + self.model.nq :]
        self._refresh()

    def show(self, state: np.ndarray) -> None:
        """Put a state in place for `render`, nothing else: the next thing is another `show`, or a reset."""
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self._place()
        self.raw._post_process()  # switches and lamps

    def resume(self, gripper: float) -> None:
        """After `set_state`, go on from the middle of an episode in which the gripper was commanded `gripper` (-1, 1).

        What a state lacks is set as such an episode has it: the arm's goal is where the arm is, the fingers' drive at
        the end to which the command has moved it. Without it the first action pulls the arm towards the reset pose.
        """
        controller, hand = self._robot.controller, self._robot.gripper
        controller.update(force=True)
        controller.reset_goal()
        hand.current_action = np.array([-1.0, 1.0]) * np.sign(gripper)

    def fixture_poses(self) -> dict[str, tuple[float, ...]]:
        """Root body of each fixture -> position (3) and quaternion wxyz (4), world frame. Not part of `state`."""
        return {
            self.model.body(body).name: (*self.model.body_pos[body].tolist(), *self.model.body_quat[body].tolist())
            for body in self._fixtures.values()
        }

    def set_fixture_poses(self, poses: dict[str, tuple[float, ...]]) -> None:
        """Inverse of `fixture_poses`. Raises ValueError where the bodies are not this task's fixtures."""
        bodies = {self.model.body(body).name: body for body in self._fixtures.values()}
        if set(poses) != set(bodies):
            raise ValueError(f"{self.task_name} has the fixtures {sorted(bodies)}, got poses of {sorted(poses)}")
        for name, pose in poses.items():
            self.model.body_pos[bodies[name]], self.model.body_quat[bodies[name]] = pose[:3], pose[3:]
        self._refresh()

    # -------------------------------------------------------------- robot

    def grip_site_position(self) -> np.ndarray:
        """float64 [3], m, world: the point between the fingertips."""
        return self.data.site_xpos[self._robot.eef_site_id].copy()

    def observation_extras(self) -> dict[str, np.ndarray]:
        """See `data_pipeline.sim.robot_state`."""
        return robot_state(self.data, self._robot)

    def grasped_objects(self) -> set[str]:
        """Movable objects that both finger pads touch now."""
        (grasped,) = self._contacts.read([self.data.contact.geom]).grasped
        return {name for name, held in zip(self.object_names, grasped, strict=True) if held}

    # -------------------------------------------------------------- what is where

    def body_of(self, name: str) -> int:
        """Root body id of an object or fixture. Raises KeyError for another name."""
        return self.raw.obj_body_id[name]

    def geoms_of(self, name: str) -> np.ndarray:
        """Int [N]: ids of all geoms of an object or fixture, visual and collision, its moving parts included."""
        root, bodies = self.body_of(name), set()
        for body in range(root, self.model.nbody):  # parents come before their children
            if body == root or self.model.body_parentid[body] in bodies:
                bodies.add(body)
        return np.flatnonzero(np.isin(self.model.geom_bodyid, sorted(bodies)))

    @property
    def _robot(self) -> Any:
        return self.raw.robots[0]

    def _camera_id(self, name: str) -> int:
        return self.model.camera(name).id

    def _drawing(self) -> Renderer:
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.config.look, self.config.resolution)
        return self._renderer

    def _reset_raw(self) -> None:
        """Robosuite's soft reset, after undoing what it leaves behind: fixture poses and the gripper's integrator."""
        self._unperturbed.restore()
        self.model.body_pos[:], self.model.body_quat[:] = self._pristine_poses
        gripper = self._robot.gripper
        gripper.current_action = np.zeros(gripper.dof)
        with quiet():
            self.raw.reset()
        self._stepper.attach()

    def _place(self) -> None:
        """Positions of bodies, cameras and lights from the joints."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _refresh(self) -> None:
        """Recompute what depends on the state, switches and lamps included (as LIBERO does after setting a state)."""
        mujoco.mj_forward(self.model, self.data)
        self.raw._post_process()


def _seed(subset: Subset, task_id: int, init_state: int | str, seed: int, attempt: int) -> int:
    """32 bits that depend on all of it, the same on every machine."""
    text = f"{subset.value}/{task_id}/{init_state}/{seed}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
