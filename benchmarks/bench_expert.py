"""How often the scripted expert solves each task from official initial states, without rendering.

usage: python benchmarks/bench_expert.py [--subset object] [--tasks 0,3] [--init-states 25:50] [--assets builtin]
                                         [--workers 2] [--out FILE]

Prints one JSON line per task as it ends, then one Markdown table: per task and per subset the rate, the length of the
successes and the reasons of the failures. `--out` keeps the lines.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import commit, hardware
from configs.choices import STUDY, Look, Subset
from configs.data import EnvConfig
from data_pipeline.libero_utils import MAX_STEPS, parse_subset
from evaluation.statistics import wilson


@dataclass(frozen=True)
class Job:
    """One task: an attempt from each of some initial states, within the evaluation's step limit."""

    subset: Subset
    task_id: int
    init_states: range
    assets: str


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", default="all", help="spatial, object, goal, long (several with commas) or all")
    parser.add_argument("--tasks", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--init-states", default="25:50", help="first:last+1 of the official initial states")
    parser.add_argument("--assets", default="builtin", choices=("builtin", "official"))
    parser.add_argument("--workers", type=int, default=1, help="processes; the results do not depend on it")
    parser.add_argument("--out", type=Path, help="also write all lines to this JSON file")
    arguments = parser.parse_args(argv)
    every = arguments.subset == "all"
    subsets = STUDY if every else [parse_subset(name) for name in arguments.subset.split(",")]
    first, last = (int(number) for number in arguments.init_states.split(":"))
    tasks = [int(number) for number in arguments.tasks.split(",")]
    jobs = [Job(subset, task, range(first, last), arguments.assets) for subset in subsets for task in tasks]
    lines = []
    with multiprocessing.get_context("spawn").Pool(arguments.workers, maxtasksperchild=1) as pool:
        for line in pool.imap(measure, jobs):
            lines.append(line)
            print(json.dumps(line), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(lines))
    return 0


def measure(job: Job) -> dict[str, Any]:
    """Play a job. Runs in a process of its own."""
    from data_pipeline.sim.demonstration import SETTLE_STEPS
    from data_pipeline.sim.environment import LiberoEnv
    from data_pipeline.sim.expert.expert import run_expert

    env = LiberoEnv(job.subset, job.task_id, EnvConfig(assets=job.assets, look=Look.LIGHT, resolution=128))
    lengths, failures, started = [], defaultdict(list), time.perf_counter()
    for index in job.init_states:
        env.reset(0, index)
        env.settle(SETTLE_STEPS)
        attempt = run_expert(env, np.random.default_rng([job.task_id, index]), MAX_STEPS[job.subset])
        if attempt.success:
            lengths.append(attempt.steps)
        else:
            failures[attempt.reason].append(index)
    seconds = (time.perf_counter() - started) / len(job.init_states)
    env.close()
    return {
        "subset": job.subset.value,
        "task": job.task_id,
        "name": env.task_name,
        "successes": len(lengths),
        "episodes": len(job.init_states),
        "init_states": [job.init_states.start, job.init_states.stop],
        "mean_steps": round(float(np.mean(lengths)), 1) if lengths else None,
        "max_steps": max(lengths, default=None),
        "s_per_episode": round(seconds, 2),
        "failures": dict(failures),
        "assets": job.assets,
        "hardware": hardware(),
        "commit": commit(),
    }


# ------------------------------------------------------------------ the table


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: a row per task, and per subset its total with Wilson's 95 % interval."""
    rows = ["| task | success | steps, mean (max) | failures |", "|---|---|---|---|"]
    for subset in dict.fromkeys(line["subset"] for line in lines):
        own = [line for line in lines if line["subset"] == subset]
        rows += [_task_row(line) for line in own]
        successes, episodes = (sum(line[key] for line in own) for key in ("successes", "episodes"))
        interval = wilson(successes, episodes)
        share = f"{successes / episodes:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
        rows.append(f"| **{subset}** | **{successes}/{episodes}** | {share} | |")
    return "\n".join(rows)


def _task_row(line: dict[str, Any]) -> str:
    reasons = "; ".join(f"{len(states)}x {reason}" for reason, states in line["failures"].items())
    steps = f"{line['mean_steps']} ({line['max_steps']})" if line["successes"] else "-"
    name = f"{line['subset']} {line['task']}: {line['name'].replace('_', ' ')}"
    return f"| {name} | {line['successes']}/{line['episodes']} | {steps} | {reasons} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
