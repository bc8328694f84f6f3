"""Memory of the loader on one official file: listing, opening all of it, then the images of each demonstration in turn.

The file is laid out as LIBERO's writer leaves it: contiguous, uncompressed images, none of our attributes. The pixels
are holes of a sparse file. One JSON line; `reference_mb` is what holding every image at once would take.
Then batches alone, one line per phase: samples/s that the workers of a training run make at 224 px (drawn, written,
tokenised, stacked and handed over), with nothing trained on them.
Usage: python benchmarks/bench_loader.py [--demos 50] [--steps 150] [--size 256] [--workers 2] [--batches 60]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import keep
from benchmarks.train_subject import NORA_3B, PHASES, Setting, make_subject
from configs.choices import Subset
from configs.model import TrainerConfig
from data_pipeline.contract import CAMERAS
from data_pipeline.hdf5_layout import IMAGE_KEYS, OBSERVATION_WIDTHS
from data_pipeline.libero_utils import demo_file
from data_pipeline.raw_loader import Hdf5Source

STATE_SIZE = 92
BATCH, WARM_UP = 16, 8


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"demos": 50, "steps": 150, "size": 256, "workers": 2, "batches": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_official_file(demo_file(Path(folder), Subset.OBJECT, 0), options.demos, options.steps, options.size)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(measure, (folder,))
    asked = {name: getattr(options, name) for name in ("demos", "steps", "size")}
    keep({"benchmark": "loader", **asked, **figures}, options.out)
    for phase in PHASES:
        with tempfile.TemporaryDirectory() as folder:
            rate = samples_per_s(Path(folder), phase, options.workers, options.batches)
        keep({"benchmark": "batches", "phase": phase, "workers": options.workers, "samples_per_s": rate}, options.out)
    return 0


def samples_per_s(folder: Path, phase: str, workers: int, batches: int) -> float:
    """Of the training data set alone, once the workers run."""
    trainer = TrainerConfig(torch_threads=1, num_workers=workers, device="cpu")
    subject = make_subject(folder, Setting(NORA_3B, BATCH, WARM_UP + batches, trainer, "no"), PHASES[phase])
    inputs = iter(DataLoader(subject.inputs(), batch_size=None, num_workers=workers, sampler=range(WARM_UP + batches)))
    for _ in range(WARM_UP):
        next(inputs)
    began = time.perf_counter()
    made = sum(step_input.samples for step_input in inputs)
    return round(made / (time.perf_counter() - began), 1)


def write_official_file(path: Path, demos: int, steps: int, size: int) -> None:
    """One task's file in the official layout, the same numbers in each demonstration."""
    rng = np.random.default_rng(0)
    sparse = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    sparse.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    sparse.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    shape = h5py.h5s.create_simple((steps, size, size, 3))
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = f"bddl_files/libero_object/{path.name.removesuffix('_demo.hdf5')}.bddl"
        for demo in range(demos):
            group = data.create_group(f"demo_{demo}")
            group["actions"] = rng.uniform(-1, 1, (steps, 7))
            group["states"] = rng.normal(size=(steps, STATE_SIZE))
            group.attrs["model_file"] = "<mujoco><worldbody/></mujoco>"
            observations = group.create_group("obs")
            for key, width in OBSERVATION_WIDTHS.items():
                observations[key] = rng.normal(size=(steps, width))
            for key in IMAGE_KEYS.values():
                h5py.h5d.create(observations.id, key.encode(), h5py.h5t.NATIVE_UINT8, shape, sparse)


def measure(folder: str) -> dict[str, float]:
    """Growth of this process's largest resident size, MB, and seconds."""
    before, start = _peak_mb(), time.perf_counter()
    source = Hdf5Source(Path(folder), Subset.OBJECT)
    episodes = [source.open(episode) for episode in source.list()]
    opened = _peak_mb()
    pixels = sum(episode.frames(camera).nbytes for episode in episodes for camera in CAMERAS)
    return {
        "open_all_mb": round(opened - before, 1),
        "peak_growth_mb": round(_peak_mb() - before, 1),
        "reference_mb": round(pixels / 1e6, 1),
        "seconds": round(time.perf_counter() - start, 2),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
