"""How often the scripted expert solves each task from official initial states, without rendering.

usage: python benchmarks/bench_expert.py [--subset object] [--tasks 0,3] [--init-states 25:50] [--assets builtin]

Prints one JSON line per task: rate, mean length, seconds per episode, failure reasons with their initial states.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import EnvConfig, Look, Subset
from data_pipeline.libero_utils import MAX_STEPS, parse_subset
from data_pipeline.sim.demos import SETTLE_STEPS
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.expert.expert import run_expert


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", default="all", help="spatial, object, goal, long or all")
    parser.add_argument("--tasks", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--init-states", default="25:50", help="first:last+1 of the official initial states")
    parser.add_argument("--assets", default="builtin", choices=("builtin", "official"))
    parser.add_argument("--out", type=Path, help="also write all lines to this JSON file")
    arguments = parser.parse_args(argv)
    subsets = list(Subset) if arguments.subset == "all" else [parse_subset(arguments.subset)]
    first, last = (int(number) for number in arguments.init_states.split(":"))
    lines = []
    for subset in subsets:
        for task in map(int, arguments.tasks.split(",")):
            lines.append(measure(subset, task, range(first, last), arguments.assets))
            print(json.dumps(lines[-1]), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(subset: Subset, task_id: int, init_states: range, assets: str) -> dict[str, Any]:
    """One task: an attempt from each initial state, within the evaluation's step limit."""
    env = LiberoEnv(subset, task_id, EnvConfig(assets=assets, look=Look.LIGHT, resolution=128))
    lengths, failures, started = [], defaultdict(list), time.perf_counter()
    for index in init_states:
        env.reset(0, index)
        env.settle(SETTLE_STEPS)
        attempt = run_expert(env, np.random.default_rng([task_id, index]), MAX_STEPS[subset])
        if attempt.success:
            lengths.append(attempt.steps)
        else:
            failures[attempt.reason].append(index)
    seconds = (time.perf_counter() - started) / len(init_states)
    env.close()
    return {
        "subset": subset.value,
        "task": task_id,
        "name": env.task_name,
        "successes": len(lengths),
        "episodes": len(init_states),
        "init_states": [init_states.start, init_states.stop],
        "mean_steps": round(float(np.mean(lengths)), 1) if lengths else None,
        "max_steps": max(lengths, default=None),
        "s_per_episode": round(seconds, 2),
        "failures": dict(failures),
        "assets": assets,
        "hardware": platform.processor() or platform.machine(),
        "commit": _commit(),
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
