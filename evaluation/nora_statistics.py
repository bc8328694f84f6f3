"""Whose numbers un-normalise a model that was trained elsewhere. Imports no torch: commands look here when they plan.

OpenVLA's layout: {key: {"action": {"q01": [7], "q99": [7], "mask": [7], ...}}}, in dataset_statistics.json or
norm_stats.json beside the weights or under `norm_stats` in config.json; a LIBERO suite's key is its name, with
`_no_noops` in earlier files. NORA's norm_stats.json has the keys of its pretraining only; the bounds of its LIBERO
checkpoints stand in the code that evaluates them (declare-lab/nora, experiments/libero/nora_utils.py, `libero_keys`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.checks import ConfigError, check
from data_pipeline.contract import ACTION_DIM

NORA = "nora"
"""What `--statistics` calls NORA's own bounds."""
NORA_HUB = "declare-lab/nora"
"""Hub ids that begin so are evaluated with them."""
FILES = ("dataset_statistics.json", "norm_stats.json")

_NORA_BOUNDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "libero_spatial": (
        (-0.7454732114076613, -0.6616071462631226, -0.9375, -0.1071428582072258, -0.20678570866584778,
         -0.1842857152223587, 0.0),
        (0.9375, 0.8758928775787354, 0.9321428537368774, 0.1039285734295845, 0.17678570747375488,
         0.14571428298950195, 1.0),
    ),
    "libero_object": (
        (-0.5383928418159485, -0.8758928775787354, -0.9375, -0.06964285671710968, -0.11678571254014969,
         -0.15964286029338837, 0.0),
        (0.8464285731315613, 0.84375, 0.9375, 0.08142857253551483, 0.14892856776714325, 0.0867857113480568, 1.0),
    ),
    "libero_goal": (
        (-0.8785714507102966, -0.7553571462631226, -0.9375, -0.1510714292526245, -0.1639285683631897,
         -0.13777500048279764, 0.0),
        (0.9375, 0.9107142686843872, 0.9375, 0.20357142388820648, 0.26357144117355347, 0.375, 1.0),
    ),
    "libero_10": (
        (-0.6348214149475098, -0.7741071581840515, -0.7633928656578064, -0.09749999642372131, -0.14819999992847435,
         -0.2742857038974762, 0.0),
        (0.7714285850524902, 0.8464285731315613, 0.9375, 0.13928571343421936, 0.15964286029338837,
         0.3246428668498993, 1.0),
    ),
}  # fmt: skip
"""(q01, q99) of each suite. Its entry for libero_90 repeats libero_10's, and is left out."""

Entries = Mapping[str, Mapping[str, Any]]


def nora_entries() -> Entries:
    """NORA's bounds in OpenVLA's layout."""
    mask = [True] * (ACTION_DIM - 1) + [False]  # the gripper stands as it is
    return {
        suite: {"action": {"q01": list(low), "q99": list(high), "mask": mask}}
        for suite, (low, high) in _NORA_BOUNDS.items()
    }


def read_entries(path: Path) -> Entries:
    """Of a statistics file, or of a model's config.json."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return values.get("norm_stats", {}) if path.name == "config.json" else values


def choose(entries: Entries, suite: str, key: str, where: str) -> str:
    """The key that stands for a suite, or `key` itself where it is given.

    Raises ConfigError, naming `where` was looked, what is there and what can be typed.
    """
    wanted = (key,) if key else (suite, f"{suite}_no_noops")
    found = next((name for name in wanted if name in entries), None)
    if found is not None:
        return found
    there = ", ".join(sorted(entries)) or "none"
    raise ConfigError(
        f"{where}: no action statistics of {' or '.join(map(repr, wanted))}; there: {there}. Name one of them with "
        f"--unnorm_key, another file with --statistics FILE, or NORA's own bounds with --statistics {NORA} "
        f"({', '.join(_NORA_BOUNDS)})"
    )


def typed_entries(text: str, suite: str, key: str) -> Entries:
    """What `--statistics` names, `nora` or a file: the one entry that is used."""
    path = Path(text).expanduser()
    check(text == NORA or path.is_file(), f"--statistics {text}: no such file; give a file, or {NORA}")
    entries = nora_entries() if text == NORA else read_entries(path)
    name = choose(entries, suite, key, f"--statistics {text}")
    return {name: entries[name]}


def entries_with(folder: Path, model: str, suite: str, key: str) -> Entries:
    """What comes with a model: of its files, the first that has the suite's; NORA's own where it is one of NORA's."""
    known: dict[str, Mapping[str, Any]] = {}
    for path in (folder / name for name in (*FILES, "config.json")):
        entries = read_entries(path) if path.is_file() else {}
        known = {**entries, **known}
    if model.startswith(NORA_HUB):
        known = {**nora_entries(), **known}
    name = choose(known, suite, key, model)
    return {name: known[name]}


def expected_horizon(hub_id: str) -> int:
    """Steps per chunk of NORA's published models: NORA predicts one, NORA-Long five."""
    return 5 if Path(hub_id).name.startswith("nora-long") else 1
