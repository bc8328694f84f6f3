"""Time, memory and size of `nora-ecot inspect` on one subset: one JSON line.

Files as this project writes them, a compressed chunk per frame. The demonstrations of a task share their images (links
inside the file), so that the disk stays out of it; each has its own actions. `reference_s` is what reading every frame
would take, from the frames of one demonstration.
Usage: python benchmarks/bench_inspect.py [--tasks 10] [--demos 50] [--steps 120] [--size 256]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import h5py
import numpy as np

from benchmarks.machine import commit, hardware
from configs.choices import Subset
from data_pipeline.contract import CAMERAS
from data_pipeline.hdf5_layout import IMAGE_KEYS, DemoWriter, TaskInfo
from data_pipeline.libero_utils import demo_file, instruction, task_names
from data_pipeline.raw_loader import read_frames
from experiment.cli import main as nora_ecot
from tests.helpers.synthetic import make_record, smooth_actions

SUBSET = Subset.OBJECT


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"tasks": 10, "demos": 50, "steps": 120, "size": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data", Path(folder) / "inspect"
        data.mkdir()
        for task in range(options.tasks):
            write_task(demo_file(data, SUBSET, task), task, options)
        start = time.perf_counter()
        assert nora_ecot("inspect", ["--data", str(data), "--output", str(output), "preset=tiny"]) == 0
        figures = {
            "seconds": round(time.perf_counter() - start, 1),
            "reference_s": round(reference_s(demo_file(data, SUBSET, 0)) * options.tasks * options.demos, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
            "page_mb": round((output / f"inspect_{SUBSET.value}.html").stat().st_size / 1e6, 2),
            "sheet_mb": round((output / f"inspect_{SUBSET.value}.png").stat().st_size / 1e6, 2),
        }
    machine = {"hardware": hardware(), "commit": commit()}
    print(json.dumps({"benchmark": "inspect", **vars(options), **machine, **figures}))
    return 0


def write_task(path: Path, task: int, options: argparse.Namespace) -> None:
    """One task's file; the first demonstration's images are noise of 16 levels (about half their size, compressed)."""
    rng = np.random.default_rng(task)
    name = task_names(SUBSET)[task]
    shape = (options.steps, options.size, options.size, 3)
    images = {camera: rng.integers(90, 106, shape, np.uint8) for camera in CAMERAS}
    with DemoWriter(path, TaskInfo(name, instruction(name))) as writer:
        writer.add(0, replace(make_record(rng, options.steps, 8), images=images))
    with h5py.File(path, "r+") as file:
        data: Any = file["data"]
        for demo in range(1, options.demos):
            group = data.create_group(f"demo_{demo}")
            for key, value in data["demo_0"].attrs.items():
                group.attrs[key] = value
            for key in ("states", "obs"):
                group[key] = data[f"demo_0/{key}"]  # a link
            group["actions"] = smooth_actions(rng, options.steps)


def reference_s(path: Path) -> float:
    """Seconds to read every frame of one demonstration and compare it with the one before."""
    start = time.process_time()
    for camera in IMAGE_KEYS:
        frames = read_frames(path, 0, camera)
        (frames[1:] == frames[:-1]).all(axis=(1, 2, 3)).sum()
    return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
