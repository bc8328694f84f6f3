"""Exact features of recorded episodes, from the simulator: boxes, gripper pixels, contacts, predicates, geometry.

Each recorded state is put back, with the fixtures where they stood, and drawn once (depth and geom ids in one pass); a
thing that has moved is drawn once more, alone, as its visible share needs it.
Nothing is stepped, so the result depends on the recording alone. Pictures leave in the ROT180 frame, geometry for
optical flow in the UPRIGHT frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from configs.data import EnvConfig
from data_pipeline.contract import AGENTVIEW, POINT_GRID, EnvironmentProblem, Episode
from data_pipeline.gripper_positions import is_visible, project
from data_pipeline.image_frame import ImageFrame, convert_image, convert_points
from data_pipeline.libero_utils import SUITE_OF, demo_file
from data_pipeline.scene import Goal, Moment, SceneTrack
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.goals import moving_part, task_goals, task_names_of
from data_pipeline.sim.rendering import HIDDEN_GROUP, Camera

_SAME_POSE_DIGITS = 3  # of metres and of rotation matrices: less than a pixel's worth


class Replayer:
    """Puts recorded states back, one environment at a time (episodes should come sorted by task)."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._env: LiberoEnv | None = None

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the environment."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def moments(self, episode: Episode, camera: str = AGENTVIEW) -> Iterator[Moment]:
        """Depth, geom ids and poses of every step, UPRIGHT. Each is drawn when it is asked for."""
        env = self._prepare(episode)
        for state in _states(episode):
            env.set_state(state)
            yield moment(env, camera)

    def track(self, episode: Episode) -> SceneTrack:
        """All features of one episode but the dense ones. Raises EnvironmentProblem where there are no states."""
        env = self._prepare(episode)
        scene = _Scene(env)
        rows = []
        for state in _states(episode):
            env.set_state(state)
            rows.append(scene.row())
        return scene.track(episode, rows)

    def _prepare(self, episode: Episode) -> LiberoEnv:
        _states(episode)
        subset, task_id = episode.id.subset, episode.id.task_id
        if self._env is None or (self._env.subset, self._env.task_id) != (subset, task_id):
            self.close()
            self._env = LiberoEnv(subset, task_id, self._config)
        self._env.reset(seed=0)
        try:
            self._env.set_fixture_poses(dict(episode.fixtures))
        except ValueError as error:
            raise EnvironmentProblem(f"{episode.id}: {error}; {_remedy(episode)}") from error
        return self._env


def _states(episode: Episode) -> np.ndarray:
    if episode.states is None:
        raise EnvironmentProblem(f"{episode.id} has no simulator states, which exact features need; {_remedy(episode)}")
    return episode.states


def _remedy(episode: Episode) -> str:
    suite = SUITE_OF[episode.id.subset]
    return f"regenerate it with `python scripts/regenerate_libero.py --libero_task_suite {suite}`"


def moment(env: LiberoEnv, name: str = AGENTVIEW) -> Moment:
    """What a camera sees of the present state, and where every geom is. UPRIGHT."""
    depth, geom = env.render_depth(name)
    camera = env.camera(name)
    return Moment(
        depth_m=_turn(depth, ImageFrame.UPRIGHT),
        geom=_turn(geom, ImageFrame.UPRIGHT),
        geom_position=env.data.geom_xpos.copy(),
        geom_rotation=env.data.geom_xmat.reshape(-1, 3, 3).copy(),
        camera_position=camera.position,
        camera_rotation=camera.rotation,
        focal_px=camera.focal_px,
    )


def _turn(image: np.ndarray, frame: ImageFrame) -> np.ndarray:
    """[H, W] from the GL frame."""
    return convert_image(image[..., None], ImageFrame.GL, frame)[..., 0]


# ------------------------------------------------------------------ boxes


def tight_box(mask: np.ndarray) -> np.ndarray:
    """Corners (x0, y0, x1, y1) around the true pixels, continuous: float [4], NaN if none is. mask: bool [H, W]."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return np.full(4, np.nan)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


class _Alone:
    """How many pixels a thing covers where nothing is in front of it: drawn with all else hidden."""

    def __init__(self, env: LiberoEnv, geoms: np.ndarray) -> None:
        self._env, self._geoms = env, geoms
        self._known: dict[bytes, int] = {}  # pose, rounded -> pixels; most things hardly move

    def pixels(self) -> int:
        """In the present state."""
        data = self._env.data
        poses = np.concatenate([data.geom_xpos[self._geoms], data.geom_xmat[self._geoms]], axis=1)
        key = np.round(poses, _SAME_POSE_DIGITS).tobytes()
        if key not in self._known:
            self._known[key] = int((self._drawn() >= 0).sum())
        return self._known[key]

    def _drawn(self) -> np.ndarray:
        groups = self._env.model.geom_group
        kept = groups.copy()
        groups[:] = HIDDEN_GROUP
        groups[self._geoms] = kept[self._geoms]
        _, ids = self._env.render_depth(AGENTVIEW)
        groups[:] = kept
        return ids


def _project(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    return project(points, camera.position, camera.rotation, camera.focal_px, camera.size)


# ------------------------------------------------------------------ one task's features


class _Scene:
    """Reads one row of features off an environment."""

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env
        self.goals = task_goals(env)
        self.names = task_names_of(env, self.goals)
        self.parts = [None if goal.places else moving_part(env, goal.subject) for goal in self.goals]
        geoms = [env.geoms_of(name) for name in self.names]
        self.owner = np.full(env.model.ngeom + 1, -1)  # the last entry serves geom id -1
        for index, ids in enumerate(geoms):
            self.owner[ids] = index
        self.alone = [_Alone(env, ids) for ids in geoms]
        self.grip_site = env.raw.robots[0].eef_site_id
        self.fingers = env.raw.robots[0]._ref_gripper_joint_pos_indexes

    def row(self) -> dict[str, np.ndarray]:
        """Features of the present state; keys are fields of SceneTrack, and `part_geoms`."""
        env, data = self.env, self.env.data
        fingers, held = data.qpos[self.fingers], env.grasped_objects()
        return {
            "position": np.array([data.xpos[env.body_of(name)] for name in self.names]),
            "grasped": np.array([name in held for name in self.names]),
            "grip_position": data.site_xpos[self.grip_site].copy(),
            "grip_rotation": data.site_xmat[self.grip_site].reshape(3, 3).copy(),
            "finger_opening": np.array(fingers[0] - fingers[1]),
            "target": np.array([self._target(goal) for goal in self.goals]),
            "holds": np.array([env.holds(g.words) for g in self.goals]),
            "joint": np.array([np.nan if part is None else data.qpos[part.address] for part in self.parts]),
            "part_geoms": np.concatenate([np.zeros((0, 3)), *(data.geom_xpos[p.geoms] for p in self.parts if p)]),
            **self._seen(),
        }

    def track(self, episode: Episode, rows: list[dict[str, np.ndarray]]) -> SceneTrack:
        """Rows of one episode, stacked."""
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        part_geoms = columns.pop("part_geoms")
        start = 0
        for index, part in enumerate(self.parts):
            if part is not None:
                geoms = part_geoms[:, start : start + len(part.geoms)]
                columns["target"][:, index] = _touched(geoms, columns["grip_position"], columns["joint"][:, index])
                start += len(part.geoms)
        return SceneTrack(
            episode=episode.id,
            file=demo_file(Path(), episode.id.subset, episode.id.task_id).name,
            instruction=episode.instruction,
            goals=self.goals,
            names=self.names,
            gripper_command=np.asarray(episode.actions[:, -1], float),
            **columns,
        )

    def _target(self, goal: Goal) -> np.ndarray:
        return np.array(self.env.raw.object_states_dict[goal.target or goal.subject].get_geom_state()["pos"])

    def _seen(self) -> dict[str, np.ndarray]:
        depth, geom = self.env.render_depth(AGENTVIEW)
        camera = self.env.camera(AGENTVIEW)
        to_grid = POINT_GRID / camera.size[0]
        owner = _turn(self.owner[geom], ImageFrame.ROT180)
        masks = owner == np.arange(len(self.names))[:, None, None]
        pixels = masks.sum((1, 2))
        alone = np.array([thing.pixels() for thing in self.alone])
        grip_upright, grip_depth = _project(self.env.data.site_xpos[self.grip_site], camera)
        return {
            "box": np.stack([tight_box(mask) for mask in masks]) * to_grid,
            "visible": np.minimum(pixels / np.maximum(alone, 1), 1.0),
            "grip_point": convert_points(grip_upright, camera.size, ImageFrame.UPRIGHT, ImageFrame.ROT180) * to_grid,
            "grip_visible": np.array(is_visible(grip_upright, float(grip_depth), _turn(depth, ImageFrame.UPRIGHT))),
        }


def _touched(geoms: np.ndarray, grip: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Track of the moving part's geom that is nearest to the hand when the joint starts to move: float [T, 3]."""
    moved = np.abs(joint - joint[0]) > 0.05 * max(np.ptp(joint), 1e-6)
    start = int(np.argmax(moved))
    nearest = int(np.argmin(np.linalg.norm(geoms[start] - grip[start], axis=-1)))
    return geoms[:, nearest]
