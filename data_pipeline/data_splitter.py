"""Train and test demonstrations: by demonstration, within each task, before anything is fitted.

Which demonstrations of a task are held out is decided by their numbers and the seed alone: the numbers 0, 1, 2, ... are
cut into blocks of 1 / fraction, and one of each block is drawn; of the first block, one of the first four. A task that
holds none of the numbers drawn (replays drop some) gives up the one that comes first in the order of a hash.

Guaranteed when demonstrations are added to a task that has four or more: no training demonstration becomes a test
demonstration, and a test demonstration becomes a training one only where it was such a stand-in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from configs.checks import ConfigError
from configs.slices import SplitSlice
from data_pipeline.contract import EpisodeId, StageContext
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.whole_files import write_json

SPLIT_FILE = "split.json"
MIN_DEMOS_FOR_TEST = 4
"""From this many demonstrations on, a task has at least one test demonstration."""


@dataclass(frozen=True)
class Split:
    """Disjoint; both sorted."""

    train: tuple[EpisodeId, ...]
    test: tuple[EpisodeId, ...]


def _draw(*key: object) -> int:
    """A large number that depends on the key and on nothing else."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest()[:8], "little")


def is_drawn(episode: EpisodeId, fraction: float, seed: int) -> bool:
    """Whether this is the test demonstration of its block. fraction in (0, 0.5]."""
    block = int(episode.demo * fraction)
    if round((block + 1) / fraction) <= episode.demo:  # a block begins at its number / fraction, rounded
        block += 1
    first, size = round(block / fraction), round((block + 1) / fraction) - round(block / fraction)
    among = min(size, MIN_DEMOS_FOR_TEST) if block == 0 else size
    return episode.demo == first + _draw(seed, episode.subset, episode.task_id, block) % among


def split_episodes(episodes: Sequence[EpisodeId], fraction: float, seed: int) -> Split:
    """Divide each task's episodes. fraction in [0, 0.5]. Does not depend on the order of `episodes`.

    A task of four or more has at least one test demonstration, smaller ones have none.
    """
    held_out: set[EpisodeId] = set()
    for _, group in groupby(sorted(episodes), key=lambda e: (e.subset, e.task_id)):
        demos = list(group)
        if fraction > 0 and len(demos) >= MIN_DEMOS_FOR_TEST:
            drawn = {e for e in demos if is_drawn(e, fraction, seed)}
            held_out |= drawn or {min(demos, key=lambda e: _draw(seed, e))}
    ordered = sorted(episodes)
    return Split(tuple(e for e in ordered if e not in held_out), tuple(e for e in ordered if e in held_out))


def save_split(path: Path, split: Split) -> None:
    """{"train": ["object/03/017", ...], "test": [...]}, atomically."""
    values = {"train": [str(e) for e in split.train], "test": [str(e) for e in split.test]}
    write_json(path, values)


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
