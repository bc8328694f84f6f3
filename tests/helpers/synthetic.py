"""Small demonstrations in LIBERO's HDF5 layout, made without a simulator: smooth random motion, tiny images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.choices import Normalization, Subset
from configs.slices import SplitSlice, StatsSlice
from data_pipeline.action_stats import STATISTICS_FILE, run_stats
from data_pipeline.contract import CAMERAS, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, run_split
from data_pipeline.hdf5_layout import DemoRecord, DemoWriter, TaskInfo
from data_pipeline.libero_utils import SUITE_OF, demo_file, task_names

STATE_SIZE = 20
FINGERPRINT = {"assets": "synthetic"}


def smooth_actions(rng: np.random.Generator, steps: int) -> np.ndarray:
    """float64 [steps, 7] in [-1, 1]: slow waves; the gripper closes half-way. No step is a no-op."""
    time = np.linspace(0, 1, steps)[:, None]
    waves = np.sin(2 * np.pi * (time * rng.uniform(0.5, 2, 6) + rng.uniform(0, 1, 6)))
    motion = waves * np.array([0.8, 0.8, 0.8, 0.1, 0.1, 0.3]) * rng.uniform(0.6, 1, 6)
    return np.concatenate([motion, np.where(time < 0.5, -1.0, 1.0)], axis=1)


def _images(rng: np.random.Generator, position: np.ndarray, size: int) -> np.ndarray:
    """uint8 [T, size, size, 3]: a bright square that follows the hand over a plain background."""
    frames = np.full((len(position), size, size, 3), rng.integers(0, 100, 3), np.uint8)
    side = max(size // 4, 1)
    corners = np.clip((position[:, :2] + 1) / 2, 0, 1) * (size - side)
    for frame, (x, y) in zip(frames, corners.astype(int), strict=True):
        frame[y : y + side, x : x + side] = 220
    return frames


def make_record(
    rng: np.random.Generator, steps: int = 30, size: int = 32, actions: np.ndarray | None = None
) -> DemoRecord:
    """A successful demonstration whose hand integrates its own actions."""
    actions = smooth_actions(rng, steps) if actions is None else actions
    position = np.cumsum(actions[:, :3], axis=0) * 0.05
    rotation = np.cumsum(actions[:, 3:6], axis=0) * 0.05
    opening = np.where(actions[:, 6:] < 0, 0.04, 0.01)
    states = np.concatenate([position, rotation, rng.normal(size=(len(actions), STATE_SIZE - 6))], axis=1)
    return DemoRecord(
        actions=actions,
        states=states,
        observations={
            "ee_pos": position,
            "ee_ori": rotation,
            "ee_states": np.concatenate([position, rotation], axis=1),
            "gripper_states": np.concatenate([opening, -opening], axis=1),
            "joint_states": rng.normal(size=(len(actions), 7)),
        },
        images={camera: _images(rng, position, size) for camera in CAMERAS},
        init_state=states[0],
        settle_steps=0,
        fixture_poses={"basket_1_main": (0.0, 0.1, 0.9, 1.0, 0.0, 0.0, 0.0)},
        seed=int(rng.integers(1 << 30)),
        fingerprint=FINGERPRINT,
        success=True,
    )


def write_synthetic_subset(
    folder: Path,
    subset: Subset,
    tasks: Sequence[int] = (0, 1),
    demos: int = 4,
    steps: int = 30,
    size: int = 32,
    seed: int = 0,
) -> Path:
    """Write ``<task name>_demo.hdf5`` for each task into `folder` (made if needed), which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        name = task_names(subset)[task]
        info = TaskInfo(
            task_name=name,
            instruction=name.replace("_", " ").lower(),
            problem_name="synthetic",
            bddl_file_name=f"{SUITE_OF[subset]}/{name}.bddl",
        )
        with DemoWriter(demo_file(folder, subset, task), info) as writer:
            for demo in range(demos):
                writer.add(demo, make_record(np.random.default_rng((seed, task, demo)), steps, size))
    return folder


def write_split_and_stats(
    folder: Path,
    output: Path,
    subset: Subset,
    *,
    test_fraction: float = 0.05,
    half_range_floor: float = 0.3,
    seed: int = 42,
) -> tuple[Path, Path]:
    """Run the stages `split` and `stats` on `folder`; both files go into `output`. Returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    context = StageContext(work=output, inputs={"regenerate": folder, "split": output})
    run_split(SplitSlice(subset, test_fraction, seed), context)
    run_stats(StatsSlice(subset, half_range_floor, Normalization.BOUNDS_Q99), context)
    return output / SPLIT_FILE, output / STATISTICS_FILE
