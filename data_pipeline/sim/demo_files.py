"""Finished demonstrations -> one file per task, in the official layout, and demos.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from configs.choices import Subset
from data_pipeline.contract import CAMERAS
from data_pipeline.hdf5_layout import DemoWriter, TaskInfo
from data_pipeline.libero_utils import SUITE_OF, demo_file, instruction, task_names
from data_pipeline.sim.boot import libero_root

_PROBLEM = re.compile(r"\(define\s+\(problem\s+(\w+)\)")


def assemble(subset: Subset, task_id: int, parts: Mapping[int, Path], resolution: int, folder: Path) -> str:
    """Write the file of a task from its demonstrations' own files (number -> path). Returns its name."""
    target = demo_file(folder, subset, task_id)
    with DemoWriter(target, task_info(subset, task_id, resolution)) as writer:
        for demo, part in parts.items():
            writer.add_file(demo, part)
    return target.name


def hand_positions(part: Path) -> np.ndarray:
    """float64 [T, 3], m: where the hand was in a demonstration's own file."""
    with h5py.File(part, "r") as file:
        return np.asarray(file["demo/obs/ee_pos"])


def task_info(subset: Subset, task_id: int, resolution: int) -> TaskInfo:
    """What a file says about its task, in the words of LIBERO's own files."""
    name = task_names(subset)[task_id]
    bddl_name = f"{SUITE_OF[subset]}/{name}.bddl"
    content = (libero_root() / "bddl_files" / bddl_name).read_text(encoding="utf-8")
    found = _PROBLEM.search(content)
    assert found is not None, bddl_name
    arguments: dict[str, Any] = {
        "type": 1,
        "env_name": found[1],
        "problem_name": found[1].lower(),
        "bddl_file": bddl_name,
        "env_kwargs": {
            "robots": ["Panda"],
            "controller_configs": {"type": "OSC_POSE"},
            "bddl_file_name": bddl_name,
            "camera_names": list(CAMERAS),
            "camera_heights": resolution,
            "camera_widths": resolution,
            "control_freq": 20,
        },
    }
    return TaskInfo(name, instruction(name), found[1], bddl_name, content, arguments)
