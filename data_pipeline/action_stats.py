"""Action statistics of the training demonstrations, and the normalisation made of them with its inverse.

File format: OpenVLA's dataset_statistics.json. Normalisation: its BOUNDS_Q99, [q01, q99] -> [-1, 1], clipped.
The gripper is not normalised (mask false): the environment's -1 open / +1 close stands as 1 open / 0 close, as in
NORA's training data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import ConfigError
from configs.slices import StatsSlice
from data_pipeline.contract import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.libero_utils import SUITE_OF
from data_pipeline.raw_loader import Hdf5Source

STATISTICS_FILE = "dataset_statistics.json"
DIMENSIONS = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
GRIPPER = ACTION_DIM - 1
MASK = np.arange(ACTION_DIM) != GRIPPER
"""Which dimensions are normalised."""
SMALLEST_RANGE = 1e-4
"""A q99 - q01 below it, in action units (5 micrometres), cannot be stretched to [-1, 1]."""
SUMMARY_KEYS = ("mean", "std", "min", "max", "q01", "q99")


def gripper_to_nora(gripper: np.ndarray) -> np.ndarray:
    """-1 open .. +1 close (environment) -> 1 open .. 0 close (NORA)."""
    return (GRIPPER_CLOSE - gripper) / (GRIPPER_CLOSE - GRIPPER_OPEN)


def gripper_to_env(gripper: np.ndarray) -> np.ndarray:
    """1 open / 0 close (NORA) -> -1 open / +1 close, decided at 0.5.

    Not at 0 after rescaling: a chunk's transition smoothed by the tokenizer then opens the hand far too early.
    """
    return np.where(gripper >= 0.5, GRIPPER_OPEN, GRIPPER_CLOSE)


def to_nora(actions: np.ndarray) -> np.ndarray:
    """Actions [..., 7] of the environment with the gripper in NORA's convention; float64."""
    actions = np.asarray(actions, np.float64)
    return np.concatenate([actions[..., :GRIPPER], gripper_to_nora(actions[..., GRIPPER:])], axis=-1)


def floored_bounds(low: np.ndarray, high: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Widen each dimension to a half range of at least `floor`, centre kept. low, high: [D]."""
    narrow = (high - low) / 2 < floor
    centre = (low + high) / 2
    return np.where(narrow, centre - floor, low), np.where(narrow, centre + floor, high)


def summary(values: np.ndarray) -> dict[str, list[float]]:
    """mean, std, min, max, q01, q99 of each column of values [N, D]."""
    values = np.asarray(values, np.float64)
    columns = (values.mean(0), values.std(0), values.min(0), values.max(0), *np.quantile(values, (0.01, 0.99), axis=0))
    return {key: column.tolist() for key, column in zip(SUMMARY_KEYS, columns, strict=True)}


@dataclass(frozen=True)
class ActionStatistics:
    """The statistics of one data set and what normalises with them."""

    dataset: str  # e.g. libero_object
    low: np.ndarray  # float64 [7]: q01, floored; the gripper's entry is unused
    high: np.ndarray  # float64 [7]
    record: Mapping[str, Any]  # the file's entry of `dataset`

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Environment actions [..., 7] -> float32 [..., 7]: six in [-1, 1], clipped; gripper 1 open / 0 close."""
        actions = to_nora(actions)
        scaled = np.clip(2 * (actions - self.low) / (self.high - self.low) - 1, -1, 1)
        return np.where(MASK, scaled, actions).astype(np.float32)

    def unnormalize(self, actions: np.ndarray) -> np.ndarray:
        """Inverse of `normalize` inside the bounds; the gripper comes back as exactly -1 or +1. float32 [..., 7]."""
        actions = np.asarray(actions, np.float64)
        scaled = (np.clip(actions, -1, 1) + 1) / 2 * (self.high - self.low) + self.low
        return np.where(MASK, scaled, gripper_to_env(actions)).astype(np.float32)

    @classmethod
    def of(
        cls, dataset: str, actions: Iterable[np.ndarray], proprio: Iterable[np.ndarray], half_range_floor: float = 0.0
    ) -> ActionStatistics:
        """From the training episodes' environment actions [T, 7] and proprioception [T, 8].

        Raises ConfigError where a dimension does not move, so that it has no range to normalise by.
        """
        episodes = [to_nora(a) for a in actions]
        if not episodes:
            raise ConfigError(f"{dataset}: no training demonstrations; add some or lower data.test_fraction")
        summed = summary(np.concatenate(episodes))
        low, high = floored_bounds(np.array(summed["q01"]), np.array(summed["q99"]), half_range_floor)
        _check_ranges(dataset, low, high)
        record = {
            "action": summed | {"q01": low.tolist(), "q99": high.tolist(), "mask": MASK.tolist()},
            "proprio": summary(np.concatenate(list(proprio))),
            "num_transitions": sum(map(len, episodes)),
            "num_trajectories": len(episodes),
            "half_range_floor": half_range_floor,
        }
        return cls(dataset, low, high, record)

    @classmethod
    def load(cls, path: Path, dataset: str | None = None) -> ActionStatistics:
        """Read a dataset_statistics.json. `dataset` may be left out where the file holds one."""
        entries = json.loads(path.read_text(encoding="utf-8"))
        if dataset is None and len(entries) == 1:
            dataset = next(iter(entries))
        if dataset is None or dataset not in entries:
            raise ConfigError(f"{path} has no statistics of {dataset!r}; it has {', '.join(entries)}")
        action = entries[dataset]["action"]
        low, high = np.array(action["q01"], np.float64), np.array(action["q99"], np.float64)
        masked = action.get("mask", MASK.tolist()) == MASK.tolist()
        if low.shape != (ACTION_DIM,) or high.shape != (ACTION_DIM,) or not masked:
            raise ConfigError(f"{path}: {dataset}: q01, q99 and mask must be those of 7 dimensions, the last unmasked")
        _check_ranges(dataset, low, high)
        return cls(dataset, low, high, entries[dataset])

    def save(self, path: Path) -> None:
        """Write {dataset: record}, atomically."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps({self.dataset: self.record}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)


def _check_ranges(dataset: str, low: np.ndarray, high: np.ndarray) -> None:
    too_narrow = MASK & ~(high - low >= SMALLEST_RANGE)
    flat = [name for name, bad in zip(DIMENSIONS, too_narrow, strict=True) if bad]
    if flat:
        raise ConfigError(
            f"{dataset}: action dimension {', '.join(flat)} hardly moves in the training demonstrations "
            f"(q99 - q01 below {SMALLEST_RANGE:g}); add demonstrations or set action.half_range_floor, e.g. 0.3"
        )


def run_stats(config: StatsSlice, context: StageContext) -> list[str]:
    """Stage `stats`, over training demonstrations only. Inputs `regenerate`, `split`."""
    source = Hdf5Source(context.inputs["regenerate"], config.subset)
    train = load_split(context.inputs["split"] / SPLIT_FILE).train
    episodes = [source.open(episode) for episode in train]
    statistics = ActionStatistics.of(
        SUITE_OF[config.subset],
        (e.actions for e in episodes),
        (e.proprio for e in episodes),
        config.half_range_floor,
    )
    statistics.save(context.work / STATISTICS_FILE)
    return [STATISTICS_FILE]
