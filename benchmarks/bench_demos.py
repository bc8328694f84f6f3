"""Demonstrations per minute with one and with two simulator workers, in one run: one JSON line.

The whole stage `demos` in a process of its own: imports, environments, physics, pictures, files. One thread per process
for drawing as for everything else. `cpu_s_per_demo` does not depend on what else the machine does, `per_minute` does.

usage: python benchmarks/bench_demos.py [--tasks 0,1] [--episodes 20] [--workers 1,2] [--out FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", LP_NUM_THREADS="1")

from benchmarks.machine import keep
from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import StageContext
from data_pipeline.libero_utils import parse_subset

ENV = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128)


def run_stage(config: DemosSlice, folder: Path) -> None:
    """The stage, as its worker process runs it."""
    from data_pipeline.sim.demos import run_demos  # in the child, so that its imports count

    outputs = run_demos(config, StageContext(folder, {}))
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in outputs}
    (folder / "digests.json").write_text(json.dumps(digests), encoding="utf-8")


def measure(config: DemosSlice, folder: Path) -> dict[str, Any]:
    """Wall and CPU time of the stage in a process of its own, and what it made."""
    folder.mkdir()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    child = multiprocessing.get_context("spawn").Process(target=run_stage, args=(config, folder))
    child.start()
    child.join()
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert child.exitcode == 0, child.exitcode
    tasks = json.loads((folder / "demos.json").read_text(encoding="utf-8"))["tasks"].values()
    made, cpu_s = (
        sum(task["made"] for task in tasks),
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
    return {
        "workers": config.workers,
        "made": made,
        "attempts": sum(task["attempts"] for task in tasks),
        "mean_steps": round(sum(task["steps"]["mean"] * task["made"] for task in tasks) / made, 1),
        "wall_s": round(wall_s, 1),
        "per_minute": round(60 * made / wall_s, 1),
        "cpu_s_per_demo": round(cpu_s / made, 2),
        "digests": json.loads((folder / "digests.json").read_text(encoding="utf-8")),
    }


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", default=Subset.OBJECT.value)
    parser.add_argument("--tasks", default="0,1")
    parser.add_argument("--episodes", type=int, default=20, help="per task")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--out", type=Path, help="also append the line to this file")
    options = parser.parse_args(argv)
    tasks = tuple(map(int, options.tasks.split(",")))
    counts = [int(count) for count in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            measure(DemosSlice(parse_subset(options.subset), tasks, options.episodes, 42, ENV, n), Path(folder, str(n)))
            for n in counts
        ]
    digests = [run.pop("digests") for run in runs]
    line = {
        "benchmark": "demos",
        "subset": options.subset,
        "tasks": tasks,
        "runs": runs,
        "ratio": round(runs[-1]["per_minute"] / runs[0]["per_minute"], 2),
        "cpu_ratio": round(runs[0]["cpu_s_per_demo"] / runs[-1]["cpu_s_per_demo"], 2),  # 1: workers cost nothing extra
        "same_bytes": all(digest == digests[0] for digest in digests),
        "look": ENV.look.value,
        "resolution": ENV.resolution,
    }
    keep(line, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
