"""What watching an episode for its milestones costs, beside a control step: one JSON line per task and stepping.

The scripted expert's episode is stepped with the tracker at work; both are timed in the same run, as CPU time.
Usage: python benchmarks/bench_milestones.py [--episodes 3]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.machine import commit, hardware
from configs.choices import Look, Stepping, Subset
from configs.data import EnvConfig
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.expert.expert import expert_actions

TASKS = ((Subset.OBJECT, 0), (Subset.GOAL, 3), (Subset.LONG, 3))


def measure(subset: Subset, task: int, stepping: Stepping, episodes: int) -> dict[str, float]:
    """Per step in microseconds, per episode in milliseconds."""
    env = LiberoEnv(subset, task, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64, stepping=stepping))
    tracker = env.tracker()
    step_s, update_s, record_s, steps = 0.0, 0.0, 0.0, 0
    for number in range(episodes):
        env.reset(0, number)
        env.settle()
        tracker.begin()
        for action in islice(expert_actions(env, np.random.default_rng(number)), MAX_STEPS[subset]):
            times = [time.process_time()]
            done = env.step(action)
            times.append(time.process_time())
            tracker.update()
            times.append(time.process_time())
            step_s, update_s, steps = step_s + times[1] - times[0], update_s + times[2] - times[1], steps + 1
            if done:
                break
        began = time.process_time()
        tracker.record()
        record_s += time.process_time() - began
    env.close()
    return {
        "steps": steps,
        "step_us": round(1e6 * step_s / steps, 1),
        "update_us": round(1e6 * update_s / steps, 1),
        "record_ms_per_episode": round(1e3 * record_s / episodes, 2),
        "share_percent": round(100 * (update_s + record_s) / step_s, 2),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=3)
    episodes = parser.parse_args().episodes
    for subset, task in TASKS:
        for stepping in Stepping:
            named = {
                "task": f"{subset.value}/{task}",
                "stepping": stepping.value,
                "hardware": hardware(),
                "commit": commit(),
            }
            print(json.dumps(named | measure(subset, task, stepping, episodes)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
