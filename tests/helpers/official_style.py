"""A demonstration as LIBERO's own writer leaves it, made from one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py

from data_pipeline.contract import CAMERAS
from data_pipeline.hdf5_layout import IMAGE_KEYS, OBSERVATION_WIDTHS, DemoRecord, DemoWriter, TaskInfo
from data_pipeline.raw_loader import read_replay
from data_pipeline.replay import begin_replay
from data_pipeline.sim.environment import LiberoEnv

FRAMES_LEFT_OUT = 5
OUR_ATTRIBUTES = ("settle_steps", "fixture_poses", "seed", "fingerprint", "success")


def write_official_style(env: LiberoEnv, source: Path, demo: int, target: Path) -> None:
    """The same motion: five steps left out at the start, the compiled model's MJCF instead of our attributes."""
    start = read_replay(source, demo)
    begin_replay(env, start)
    keep = slice(FRAMES_LEFT_OUT, None)
    with h5py.File(source) as file:
        observed = file[f"data/demo_{demo}/obs"]
        record = DemoRecord(
            actions=start.actions[keep],
            states=start.states[keep],
            observations={key: observed[key][keep] for key in OBSERVATION_WIDTHS},
            images={camera: observed[IMAGE_KEYS[camera]][keep] for camera in CAMERAS},
            success=True,
            init_state=start.states[FRAMES_LEFT_OUT],
            model_file=env.raw.sim.model.get_xml(),
        )
    with DemoWriter(target, TaskInfo(env.task_name, env.instruction)) as writer:
        writer.add(demo, replace(record, images={c: frames[:, ::2, ::2] for c, frames in record.images.items()}))
    with h5py.File(target, "r+") as file:
        for name in OUR_ATTRIBUTES:
            del file[f"data/demo_{demo}"].attrs[name]
