"""Train and test demonstrations: by demonstration, within each task, before anything is fitted.

The order of a task's demonstrations is that of a hash of (seed, id), so adding demonstrations moves few others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from configs.schema import ConfigError
from configs.slices import SplitSlice
from data_pipeline.contract import EpisodeId, StageContext
from data_pipeline.raw_loader import Hdf5Source

SPLIT_FILE = "split.json"
MIN_DEMOS_FOR_TEST = 4
"""From this many demonstrations on, a task has at least one test demonstration."""


@dataclass(frozen=True)
class Split:
    """Disjoint; both sorted."""

    train: tuple[EpisodeId, ...]
    test: tuple[EpisodeId, ...]


def _rank(episode: EpisodeId, seed: int) -> str:
    return hashlib.sha256(f"{seed} {episode}".encode()).hexdigest()


def num_test(demos: int, fraction: float) -> int:
    """Test demonstrations among `demos` of one task: round(demos * fraction), halves to even; one of four or more."""
    if fraction == 0:
        return 0
    return max(round(demos * fraction), int(demos >= MIN_DEMOS_FOR_TEST))


def split_episodes(episodes: Sequence[EpisodeId], fraction: float, seed: int) -> Split:
    """Divide each task's episodes. fraction in [0, 0.5]. Does not depend on the order of `episodes`."""
    train: list[EpisodeId] = []
    test: list[EpisodeId] = []
    for _, group in groupby(sorted(episodes), key=lambda e: (e.subset, e.task_id)):
        ranked = sorted(group, key=lambda e: _rank(e, seed))
        count = num_test(len(ranked), fraction)
        test += ranked[:count]
        train += ranked[count:]
    return Split(tuple(sorted(train)), tuple(sorted(test)))


def save_split(path: Path, split: Split) -> None:
    """{"train": ["object/03/017", ...], "test": [...]}, atomically."""
    values = {"train": [str(e) for e in split.train], "test": [str(e) for e in split.test]}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load_split(path: Path) -> Split:
    """Inverse of `save_split`. Raises ConfigError where train and test share a demonstration."""
    values = json.loads(path.read_text(encoding="utf-8"))
    split = Split(*(tuple(EpisodeId.parse(text) for text in values[key]) for key in ("train", "test")))
    shared = set(split.train) & set(split.test)
    if shared:
        raise ConfigError(f"{path}: {min(shared)} is both in train and in test")
    return split


def run_split(config: SplitSlice, context: StageContext) -> list[str]:
    """Stage `split`. Input `regenerate`."""
    episodes = Hdf5Source(context.inputs["regenerate"], config.subset).list()
    save_split(context.work / SPLIT_FILE, split_episodes(episodes, config.test_fraction, config.seed))
    return [SPLIT_FILE]
