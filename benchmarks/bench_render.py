"""Milliseconds of CPU per frame for each look and camera, and per reset and step: one JSON line.

CPU time of the process, drawing threads included: it does not depend on what else the machine does.

With official assets configured ($LIBERO_ASSETS_PATH) they are measured in the same run, as the reference.
Usage: python benchmarks/bench_render.py [--resolution 128] [--frames 30]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import commit, hardware
from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import CAMERAS
from data_pipeline.sim.assets import find_official
from data_pipeline.sim.environment import NO_OP, LiberoEnv

TASK = (Subset.GOAL, 7)


def median_ms(action: Callable[[int], object], repeats: int) -> float:
    """Median CPU time of action(i) in milliseconds, after one call that is not counted."""
    action(0)
    times = []
    for index in range(repeats):
        start = time.process_time()
        action(index)
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times), 2)


def measure(kind: str, look: Look, resolution: int, frames: int) -> dict[str, float]:
    """Every figure of one asset set in one look."""
    start = time.process_time()
    env = LiberoEnv(*TASK, EnvConfig(assets=kind, look=look, resolution=resolution))
    figures = {"construct_s": round(time.process_time() - start, 2)}
    figures["reset_ms"] = median_ms(lambda i: env.reset(seed=i, init_state=i % 50), frames)
    figures["step_ms"] = median_ms(lambda _: env.step(NO_OP), frames)
    for camera in CAMERAS:
        figures[f"{camera}_ms"] = median_ms(lambda _, name=camera: env.render(name), frames)
    env.close()
    return figures


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--frames", type=int, default=30)
    options = parser.parse_args()
    kinds = ["builtin", "official"] if find_official() else ["builtin"]
    LiberoEnv(*TASK, EnvConfig(assets=kinds[0])).close()  # compile and import once, outside what is measured
    figures = {
        kind: {look.value: measure(kind, look, options.resolution, options.frames) for look in Look} for kind in kinds
    }
    machine = {"hardware": hardware(), "commit": commit(), "resolution": options.resolution}
    print(json.dumps({"benchmark": "render", "unit": "CPU time", **machine, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
