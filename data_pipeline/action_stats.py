"""Action statistics of the training demonstrations, and the normalisation made of them with its inverse.

File format: OpenVLA's dataset_statistics.json, with two keys more, `normalization` and `half_range_floor`, so that
whoever reads the file can invert what training did. A pose delta a becomes (a - centre) / unit:

    normal      centre mean, unit standard deviation; not clipped
    bounds      [min, max] -> [-1, 1], clipped
    bounds_q99  [q01, q99] -> [-1, 1], clipped; the default

The gripper is never normalised (mask false): the environment's -1 open / +1 close stands as 1 open / 0 close, as in
NORA's training data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import ConfigError, check
from configs.choices import Normalization
from configs.slices import StatsSlice
from data_pipeline.contract import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, Episode, StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.libero_utils import SUITE_OF
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.whole_files import write_json

STATISTICS_FILE = "dataset_statistics.json"
DIMENSIONS = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
GRIPPER = ACTION_DIM - 1
MASK = np.arange(ACTION_DIM) != GRIPPER
"""Which dimensions are normalised."""
SMALLEST_UNIT = 5e-5
"""A unit below it, in actions (2.5 micrometres), cannot be stretched to 1."""
SUMMARY_KEYS = ("mean", "std", "min", "max", "q01", "q99")
COLUMNS = {
    Normalization.NORMAL: ("mean", "std"),
    Normalization.BOUNDS: ("min", "max"),
    Normalization.BOUNDS_Q99: ("q01", "q99"),
}
"""What of the record each mode reads. `half_range_floor` has been applied to these two columns of the file."""


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


def _centre_and_unit(mode: Normalization, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, second = columns
    return (first, second) if mode is Normalization.NORMAL else ((first + second) / 2, (second - first) / 2)


@dataclass(frozen=True)
class ActionStatistics:
    """The statistics of one data set and what normalises with them."""

    dataset: str  # e.g. libero_object
    mode: Normalization
    centre: np.ndarray  # float64 [7]: the action that becomes 0; the gripper's entry is unused
    unit: np.ndarray  # float64 [7]: what must be added to it to become 1
    record: Mapping[str, Any]  # the file's entry of `dataset`

    @property
    def low(self) -> np.ndarray:
        """The action that becomes -1: float64 [7]."""
        return self.centre - self.unit

    @property
    def high(self) -> np.ndarray:
        """The action that becomes 1: float64 [7]."""
        return self.centre + self.unit

    @property
    def largest(self) -> float:
        """Largest magnitude that `normalize` gives to actions in [-1, 1]: 1 where it clips."""
        reach = (1 + np.abs(self.centre)) / self.unit
        return float(reach[MASK].max()) if self.mode is Normalization.NORMAL else 1.0

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Environment actions [..., 7] -> float32 [..., 7]: six within +-`largest`; gripper 1 open / 0 close."""
        actions = to_nora(actions)
        return np.where(MASK, self._clip((actions - self.centre) / self.unit), actions).astype(np.float32)

    def unnormalize(self, actions: np.ndarray) -> np.ndarray:
        """Inverse of `normalize` where nothing was clipped; the gripper is exactly -1 or +1. float32 [..., 7]."""
        actions = np.asarray(actions, np.float64)
        scaled = self._clip(actions) * self.unit + self.centre
        return np.where(MASK, scaled, gripper_to_env(actions)).astype(np.float32)

    def _clip(self, values: np.ndarray) -> np.ndarray:
        return values if self.mode is Normalization.NORMAL else np.clip(values, -1, 1)

    @classmethod
    def of(
        cls,
        dataset: str,
        actions: Iterable[np.ndarray],
        proprio: Iterable[np.ndarray],
        half_range_floor: float = 0.0,
        mode: Normalization = Normalization.BOUNDS_Q99,
    ) -> ActionStatistics:
        """From the training episodes' environment actions [T, 7] and proprioception [T, 8].

        half_range_floor: the smallest unit; centres stay. Raises ConfigError where a dimension does not move, so that
        it has no range to normalise by.
        """
        episodes = [to_nora(a) for a in actions]
        if not episodes:
            raise ConfigError(f"{dataset}: no training demonstrations; add some or lower data.test_fraction")
        summed = summary(np.concatenate(episodes))
        first, second = (np.array(summed[key]) for key in COLUMNS[mode])
        if mode is Normalization.NORMAL:
            second = np.maximum(second, half_range_floor)
        else:
            first, second = floored_bounds(first, second, half_range_floor)
        used = dict(zip(COLUMNS[mode], (first.tolist(), second.tolist()), strict=True))
        record = {
            "action": summed | used | {"mask": MASK.tolist()},
            "proprio": summary(np.concatenate(list(proprio))),
            "num_transitions": sum(map(len, episodes)),
            "num_trajectories": len(episodes),
            "normalization": mode.value,
            "half_range_floor": half_range_floor,
        }
        return cls.from_record(dataset, record)

    @classmethod
    def from_record(cls, dataset: str, record: Mapping[str, Any], where: str = "") -> ActionStatistics:
        """From an entry of a dataset_statistics.json; one of OpenVLA's, which names no mode, is bounds_q99.

        Raises ConfigError, naming `where` it came from, for what cannot be normalised with.
        """
        name, action = f"{where}{dataset}", record["action"]
        text = record.get("normalization", Normalization.BOUNDS_Q99.value)
        modes = [mode.value for mode in Normalization]
        check(text in modes, f"{name}: normalization={text!r}; allowed: {', '.join(modes)}")
        mode = Normalization(text)
        columns = [np.array(action[key], np.float64) for key in COLUMNS[mode]]
        masked = action.get("mask", MASK.tolist()) == MASK.tolist()
        check(
            masked and all(column.shape == (ACTION_DIM,) for column in columns),
            f"{name}: {', '.join(COLUMNS[mode])} and mask must be those of {ACTION_DIM} dimensions, the last unmasked",
        )
        centre, unit = _centre_and_unit(mode, columns)
        _check_units(name, unit)
        return cls(dataset, mode, centre, unit, record)

    @classmethod
    def load(cls, path: Path, dataset: str | None = None) -> ActionStatistics:
        """Read a dataset_statistics.json. `dataset` may be left out where the file holds one."""
        entries = json.loads(path.read_text(encoding="utf-8"))
        if dataset is None and len(entries) == 1:
            dataset = next(iter(entries))
        if dataset is None or dataset not in entries:
            raise ConfigError(f"{path} has no statistics of {dataset!r}; it has {', '.join(entries)}")
        return cls.from_record(dataset, entries[dataset], f"{path}: ")

    def save(self, path: Path) -> None:
        """Write {dataset: record}, atomically."""
        write_json(path, {self.dataset: self.record})


def _check_units(name: str, unit: np.ndarray) -> None:
    too_narrow = MASK & ~(unit >= SMALLEST_UNIT)
    flat = [dimension for dimension, bad in zip(DIMENSIONS, too_narrow, strict=True) if bad]
    if flat:
        raise ConfigError(
            f"{name}: action dimension {', '.join(flat)} hardly moves in the training demonstrations "
            f"(half range below {SMALLEST_UNIT:g}); add demonstrations or set action.half_range_floor, e.g. 0.3"
        )


def pooled_statistics(
    name: str, training: Iterable[Episode], half_range_floor: float, mode: Normalization
) -> ActionStatistics:
    """Of training episodes, of one subset or several. Raises ConfigError where they have no range to normalise by."""
    actions, proprio = [], []
    for episode in training:
        actions.append(episode.actions)
        proprio.append(episode.proprio)
    return ActionStatistics.of(name, actions, proprio, half_range_floor, mode)


def run_stats(config: StatsSlice, context: StageContext) -> list[str]:
    """Stage `stats`, over training demonstrations only. Inputs `regenerate`, `split`."""
    source = Hdf5Source(context.inputs["regenerate"], config.subset)
    train = load_split(context.inputs["split"] / SPLIT_FILE).train
    episodes = (source.open(episode) for episode in train)
    statistics = pooled_statistics(SUITE_OF[config.subset], episodes, config.half_range_floor, config.normalization)
    statistics.save(context.work / STATISTICS_FILE)
    return [STATISTICS_FILE]
