"""How fast stage `annotate` is, and how true: against the scripted expert's own phases and the hand's own speed.

usage: python benchmarks/bench_annotate.py DATA/libero_object_expert ... [--workers 2] [--out FILE]

Each folder holds demonstrations of one subset that the expert made (`scripts/generate_demos.py`). Per folder one JSON
line: steps annotated per second, the share of demonstrations all of whose segment boundaries lie within NEAR steps of
a change of the expert's phase to the same thing, how far boundaries of each kind are off, and the share of moving steps
that are called "stop".
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.machine import keep
from configs.choices import Look
from configs.data import AnnotatorConfig, EnvConfig
from configs.slices import AnnotateSlice
from data_pipeline.contract import CONTROL_HZ, EpisodeId, StageContext
from data_pipeline.ecot_annotator import run_annotate
from data_pipeline.hdf5_layout import phase_starts
from data_pipeline.raw_loader import Hdf5Source, read_replay
from experiment.inspecting import subset_of

NEAR = 5  # steps
MOVING_M_S = 0.02  # of the hand: 1 mm per step, the least that the expert ever commands
KINDS: Mapping[str, str] = {
    "reach": "reach",
    "grasp": "grasp",
    "lift": "lift",
    "carry": "move",
    "lower": "place",
    "release": "retract",  # the fingers begin to open
    "retreat": "retract",  # the hand begins to leave
    "drag": "push",
    "open": "open",
    "close": "close",
    "turnon": "turn on",
}
"""The expert's verb -> the segment that begins with it. A grasp that did not hold (`retry`) is part of a segment."""
SAME: Mapping[str, str] = {"set aside": "move", "reach handle": "reach", "grasp handle": "grasp"}


@dataclass
class Agreement:
    """Of the demonstrations of a folder."""

    demos: int = 0
    near: int = 0  # demonstrations
    off: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))  # kind -> steps
    unmatched: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))  # kind -> boundaries
    unseen: int = 0  # changes of the expert's phase that no boundary answers to
    changes: int = 0
    worst: dict[str, int] = field(default_factory=dict[str, int])  # demonstration -> steps

    def add(self, episode: str, segments: Sequence[Mapping[str, Any]], goals: Sequence[Any], phases: list[Any]) -> None:
        """One demonstration. phases: [first step, "verb thing"], of `phase_starts`."""
        changes = [
            (t, KINDS[verb], thing) for t, phase in phases for verb, _, thing in [phase.partition(" ")] if verb in KINDS
        ]
        answered, worst = {0}, 0
        for part in segments[1:]:
            kind, thing = SAME.get(part["kind"], part["kind"]), goals[part["goal"]]["predicate"][1]
            same = [(abs(part["start"] - t), part["start"] - t, t) for t, *what in changes if what == [kind, thing]]
            if not same:
                self.unmatched[part["kind"]] += 1
                continue
            distance, off, at = min(same)
            answered.add(at)
            self.off[part["kind"]].append(off)
            worst = max(worst, distance)
        self.demos += 1
        self.near += worst <= NEAR
        self.changes += len(changes)
        self.unseen += sum(t not in answered for t, *_ in changes)
        if worst > NEAR:
            self.worst[episode] = worst

    def line(self) -> dict[str, Any]:
        """For the result."""
        kinds = {
            kind: {
                "boundaries": len(off),
                "within": round(float(np.mean(np.abs(off) <= NEAR)), 4),
                "p5_p50_p95": [round(float(q), 1) for q in np.percentile(off, [5, 50, 95])],
                "extremes": [min(off), max(off)],
            }
            for kind, off in sorted(self.off.items())
        }
        return {
            "boundaries_agree": round(self.near / self.demos, 4),
            "agreeing_demos": self.near,
            "boundaries": kinds,
            "boundaries_without_counterpart": dict(self.unmatched),
            "expert_changes_without_counterpart": self.unseen,
            "expert_changes": self.changes,
            "demos_off": self.worst,
        }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--assets", default="builtin", choices=("builtin", "official"))
    parser.add_argument("--look", default="light", choices=[look.value for look in Look])
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--out", type=Path, help="append the lines to this file")
    arguments = parser.parse_args(argv)
    env = EnvConfig(assets=arguments.assets, look=Look(arguments.look), resolution=arguments.resolution)
    for folder in arguments.folders:
        keep(measure(folder, env, arguments.workers), arguments.out)
    return 0


def measure(folder: Path, env: EnvConfig, workers: int) -> dict[str, Any]:
    """Annotate a folder, and compare."""
    subset = subset_of(folder)
    config = AnnotateSlice(subset, AnnotatorConfig(), env, workers)
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            run_annotate(config, StageContext(Path(work), {"regenerate": folder}))
        seconds = time.perf_counter() - began
        path = Path(work) / "annotations.json"
        tree, size = json.loads(path.read_text(encoding="utf-8")), path.stat().st_size
    entries = [entry for episodes in tree.values() for entry in episodes.values()]
    steps = sum(entry["metadata"]["n_steps"] for entry in entries)
    return {
        "benchmark": "annotate",
        "subset": subset.value,
        "demos": len(entries),
        "steps": steps,
        "workers": workers,
        "resolution": env.resolution,
        "look": env.look.value,
        "assets": env.assets,
        "steps_per_s": round(steps / seconds, 1),
        "bytes_per_step": round(size / steps),
        **agreement(entries, Hdf5Source(folder, subset)).line(),
        **stops(entries),
    }


def agreement(entries: Sequence[Mapping[str, Any]], source: Hdf5Source) -> Agreement:
    """Segments against what the expert was about."""
    found = Agreement()
    for entry in entries:
        episode = EpisodeId.parse(entry["metadata"]["episode_id"])
        phases = read_replay(source.path(episode.task_id), episode.demo).expert_phases
        features = entry["features"]
        found.add(str(episode), features["segments"], features["goals"], phase_starts(phases))
    return found


def stops(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many steps move, and how many of these are called "stop"."""
    moving = stopped = 0
    for entry in entries:
        position = np.array(entry["features"]["state_3d"])
        fast = np.linalg.norm(np.diff(position, axis=0), axis=1) * CONTROL_HZ > MOVING_M_S
        named = np.array([move == "stop" for move in entry["features"]["move_primitive"]])[:-1]
        moving, stopped = moving + int(fast.sum()), stopped + int((fast & named).sum())
    return {"moving_steps": moving, "moving_m_s": MOVING_M_S, "moving_called_stop": round(stopped / moving, 4)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
