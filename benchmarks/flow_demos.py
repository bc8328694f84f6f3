"""Expert demonstrations for the benchmarks of optical flow: made once, in built-in assets, and cut to stretches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import Episode, StageContext
from data_pipeline.raw_loader import Hdf5Source

TASKS = {Subset.OBJECT: 0, Subset.GOAL: 3}
"""A pick and place; a drawer, then the same."""


def env_of(resolution: int) -> EnvConfig:
    """What they are drawn with."""
    return EnvConfig(assets="builtin", look=Look.LIGHT, resolution=resolution)


def make_demos(folder: Path, resolution: int, subsets: list[Subset]) -> None:
    """One demonstration of each subset's task in TASKS, below `folder`."""
    from data_pipeline.sim.demos import run_demos  # the simulator; torch, where it is needed, comes first

    for subset in subsets:
        work = folder / str(resolution) / subset.value
        work.mkdir(parents=True)
        run_demos(DemosSlice(subset, (TASKS[subset],), 1, 42, env_of(resolution)), StageContext(work, {}))


def demo_in(folder: Path, resolution: int, subset: Subset) -> Episode:
    """The demonstration that `make_demos` made."""
    source = Hdf5Source(folder / str(resolution) / subset.value, subset)
    return source.open(source.list()[0])


def cut(episode: Episode, start: int, count: int) -> Episode:
    """Some consecutive steps of an episode."""
    chosen = slice(start, start + count)
    assert episode.states is not None
    return dataclasses.replace(
        episode,
        actions=episode.actions[chosen],
        proprio=episode.proprio[chosen],
        states=episode.states[chosen],
        read_frames=lambda camera: episode.frames(camera)[chosen],
    )
