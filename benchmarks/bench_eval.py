"""Episodes per minute: the rollout engine in its three looks against the reference evaluators, in one run.

Same policy (the tiny preset's model, `no_think`, one thread; random weights write more tokens than trained ones), same
episodes, same number of steps and of steps per query, same thread settings. The reference (see `reference_env.py`) has
one environment and asks the policy one query at a time; ours has two workers. Environments are built and warm in all of
them. One JSON line.

usage: python benchmarks/bench_eval.py [--assets builtin] [--steps 100] [--trials 8] [--only light,...] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", LP_NUM_THREADS="1")

import numpy as np

from benchmarks.machine import keep
from benchmarks.reference_env import FACTORY, RESOLUTION
from configs.choices import Look, Mode, Subset
from configs.data import EnvConfig
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from evaluation.episodes import EpisodeKey, EpisodeResult, Protocol, make_protocol
from evaluation.identity import Identity
from evaluation.ledger import Ledger
from evaluation.policy_api import Decision, Observation, Policy
from evaluation.rollout import Engine
from evaluation.simulators import LIBERO, SimulatorPool

TASKS = ((Subset.OBJECT, 0), (Subset.GOAL, 8))
EXECUTE = 4  # steps of each chunk, as the tiny preset
HORIZON = 8


class StillPolicy:
    """Answers at once: what is left is the simulator."""

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """No motion."""
        still = np.zeros((HORIZON, 7), np.float32)
        return [Decision(still) for _ in observations]


@dataclass
class Counted:
    """A policy, and how many queries it was asked at once."""

    policy: Policy
    calls: list[int] = field(default_factory=list[int])

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """As the policy."""
        self.calls.append(len(observations))
        return self.policy.act(observations)


@dataclass(frozen=True)
class Setting:
    """One row of the result."""

    name: str
    env: EnvConfig
    factory: str = LIBERO
    workers: int = 2
    slots: int = 4
    rows: int = 4  # of a batch of the policy
    deterministic: bool = True


def run(
    pool: SimulatorPool, policy: Policy, identity: Identity, task: int, trials: int, rows: int
) -> tuple[float, list[EpisodeResult]]:
    """Wall seconds and results of `trials` episodes of one task."""
    keys = [EpisodeKey(task, trial, 0, Mode.NO_THINK.value) for trial in range(trials)]
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite", identity) as ledger:
        began = time.perf_counter()
        Engine(Subset(identity.subset), identity.protocol, pool, policy, ledger, rows).run(keys)
        return time.perf_counter() - began, [finished.result for finished in ledger.finished()]


def measure(setting: Setting, policy: Policy, protocol: Protocol, trials: int) -> dict[str, Any]:
    """All figures of one setting. Each seat has built its environment before the clock starts."""
    with SimulatorPool(setting.workers, setting.env, setting.factory, slots=setting.slots) as pool:
        wall_s, cpu_s, results, calls = 0.0, np.zeros(2), list[EpisodeResult](), list[int]()
        for subset, task in TASKS:
            identity = Identity(subset.value, "bench", "", protocol, pool.describe(subset, task).fingerprint)
            short = replace(identity, protocol=replace(protocol, max_steps=EXECUTE))
            run(pool, policy, short, task, setting.workers * setting.slots, setting.rows)
            before, counted = cpu_seconds(pool), Counted(policy, calls)
            seconds, found = run(pool, counted, identity, task, trials, setting.rows)
            wall_s, cpu_s, results = wall_s + seconds, cpu_s + cpu_seconds(pool) - before, [*results, *found]
        memory = [pss_mb(worker.process.pid) for worker in pool.workers]
    assert all(result.steps == protocol.max_steps for result in results), [r.reason for r in results]
    cpu = dict(zip(("driver", "workers"), (cpu_s / len(results)).round(3).tolist(), strict=True))
    batches = {"queries_per_call": round(float(np.mean(calls)), 2)}
    return {**figures(setting, wall_s, results), **batches, "cpu_s_per_episode": cpu, "pss_mb_per_worker": memory}


def figures(setting: Setting, wall_s: float, results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Rates and shares. Shares are of the wall time: of one process, or of the workers together."""
    kinds = ("reset", "physics", "render", "policy")
    spent = {kind: sum(float(result.timing[f"{kind}_s"]) for result in results) for kind in kinds}
    busy = {kind: spent[kind] / (setting.workers * wall_s) for kind in kinds[:3]}
    queries = sum(result.queries for result in results)
    return {
        "episodes_per_minute": round(60 * len(results) / wall_s, 2),
        "wall_s": round(wall_s, 2),
        "steps": sum(result.steps for result in results),
        "queries": queries,
        "tokens_per_query": round(sum(result.tokens for result in results) / queries, 2),
        "ms": {
            "physics_per_step": round(1e3 * spent["physics"] / sum(r.steps for r in results), 2),
            "render_per_query": round(1e3 * spent["render"] / queries, 2),
            "policy_per_query": round(1e3 * spent["policy"] / queries, 2),
            "reset_per_episode": round(1e3 * spent["reset"] / len(results), 2),
        },
        "share_of_workers": {k: round(v, 3) for k, v in {**busy, "waiting": 1 - sum(busy.values())}.items()},
        "policy_share_of_driver": round(spent["policy"] / wall_s, 3),
    }


def make_policy(adapter: Path, base: Path, setting: Setting) -> Policy:
    """Of an adapter and its base; batches as the setting has them."""
    from evaluation.policy import load_subject

    config = EvaluateSlice(
        subset=TASKS[0][0],
        tasks=(0,),
        modes=(Mode.NO_THINK,),
        eval=EvalConfig(batch_rows=setting.rows, deterministic=setting.deterministic),
        env=setting.env,
        trainer=TrainerConfig(torch_threads=1, device="cpu"),
        execute=EXECUTE,
    )
    return load_subject(config, adapter, base).policy


def write_model(folder: Path) -> None:
    """An adapter of the baseline phase on a base of the tiny preset's size."""
    from experiment.compose import compose, find_phase
    from tests.helpers.tiny_adapter import BASELINE, write_tiny_adapter

    model = compose(find_phase("baseline"), ["preset=tiny"]).model
    write_tiny_adapter(folder, BASELINE, model, TASKS[0][0])


def cpu_seconds(pool: SimulatorPool) -> np.ndarray:
    """Of the driver, policy included, and of the workers together, since they started: float64 [2]."""
    ticks = 0
    for worker in pool.workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return np.array([time.process_time(), ticks / os.sysconf("SC_CLK_TCK")])


def pss_mb(process: int) -> float:
    """Proportional set size: pages shared with other processes count in part."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, 1)


def settings(assets: str) -> list[Setting]:
    """The reference first; `light_128` is what the tiny preset uses."""

    def env(look: Look, resolution: int = RESOLUTION) -> EnvConfig:
        return EnvConfig(assets=assets, look=look, resolution=resolution)

    reference = Setting("reference", env(Look.OFFICIAL), FACTORY, 1, 1, 1, deterministic=False)
    return [reference, *(Setting(look.value, env(look)) for look in Look), Setting("light_128", env(Look.LIGHT, 128))]


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--steps", type=int, default=100, help="of each episode, after ten to settle")
    parser.add_argument("--trials", type=int, default=8, help="of each of the two tasks")
    parser.add_argument("--only", default="", help="names of the settings to run")
    parser.add_argument("--slots", type=int, default=4, help="environments per worker")
    parser.add_argument("--rows", type=int, default=4, help="of a batch of the policy")
    parser.add_argument("--adapter", type=Path, help="folder of a trained adapter instead of random weights")
    parser.add_argument("--base", type=Path, help="output of the base stage that it belongs to")
    parser.add_argument("--out", type=Path, help="also append the line to this file")
    options = parser.parse_args(argv)
    protocol = replace(make_protocol(EvalConfig(), EXECUTE, options.steps), success_within_chunk=False)
    chosen = [s for s in settings(options.assets) if not options.only or s.name in options.only.split(",")]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for setting in chosen:
            if setting.factory == LIBERO:
                setting = replace(setting, slots=options.slots, rows=options.rows)
            policy = make_policy(options.adapter or Path(folder), options.base or Path(folder), setting)
            rows[setting.name] = measure(setting, policy, protocol, options.trials)
            if setting.factory == LIBERO:
                alone = measure(setting, StillPolicy(), protocol, options.trials)
                rows[setting.name]["simulator_alone_per_minute"] = alone["episodes_per_minute"]
    if "reference" in rows:
        base = rows["reference"]["episodes_per_minute"]
        for row in rows.values():
            row["times_reference"] = round(row["episodes_per_minute"] / base, 2)
    line = {
        "benchmark": "eval",
        "assets": options.assets,
        "tasks": [f"{subset.value}/{task}" for subset, task in TASKS],
        "steps_per_episode": options.steps,
        "steps_per_query": EXECUTE,
        "trials": options.trials,
        "weights": "trained" if options.adapter else "random",
        "threads": {name: os.environ[name] for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS")},
        "seats": {"workers": 2, "environments_per_worker": options.slots, "batch_rows": options.rows},
        "rows": rows,
    }
    keep(line, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
