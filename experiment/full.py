"""`evaluate.py --model_type full`: what was typed -> which model, which statistics."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

from configs.checks import check
from configs.choices import Mode, Subset
from configs.schema import ExperimentConfig
from configs.slices import FullCheckpoint
from data_pipeline.libero_utils import SUITE_OF
from evaluation.nora_statistics import NORA_HUB, entries_with, expected_horizon, typed_entries
from experiment.plan import FULL
from training.base_folder import locate_base

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?")
_FLAGS = ("statistics", "unnorm_key")


def check_none_given(values: Namespace) -> None:
    """Raise ConfigError for a flag that only a full checkpoint heeds."""
    given = [f"--{name}" for name in _FLAGS if getattr(values, name, None)]
    check(not given, f"{', '.join(given)} is for --model_type {FULL}; an adapter brings its own statistics")


def full_checkpoint(
    values: Namespace, config: ExperimentConfig, subset: Subset
) -> tuple[FullCheckpoint, str, tuple[str, ...]]:
    """The checkpoint, what its row's folders are called, and what to say about it.

    A local model's statistics are found now, a hub's when the stage runs: its files may not be here yet. Raises
    ConfigError where something typed is wrong or the local model brings no statistics of the suite.
    """
    typed, suite, key = values.lora_path or "", SUITE_OF[subset], values.unnorm_key or ""
    check(Mode.NO_THINK in config.eval.modes, f"{FULL}: a full checkpoint has no reasoning; leave --mode out")
    tokenizer = config.action.tokenizer
    check(
        tokenizer != "fit",
        "action.tokenizer=fit, but a full checkpoint was trained with a FAST tokenizer of its own; give it, e.g. "
        "action.tokenizer=physical-intelligence/fast, or preset=nora_3b",
    )
    entries = typed_entries(values.statistics, suite, key) if values.statistics else {}
    folder = Path(typed).expanduser()
    if folder.is_dir():
        is_adapter = (folder / "adapter_card.json").is_file()
        check(not is_adapter, f"--lora_path {typed} is of this project; give its phase as --model_type")
        found = locate_base(str(folder))
        name, path, called = found.name, str(folder.resolve()), re.sub(r"[^\w.-]+", "-", folder.resolve().name)
        entries = entries or entries_with(folder, name, suite, key)
    else:
        check(
            _HUB_ID.fullmatch(typed) is not None,
            f"--lora_path {typed!r}: no such folder, and no hub id; give a model's folder, or e.g. "
            f"{NORA_HUB}-long-finetuned-libero-{subset.value}, with @ and 40 hex digits for a revision",
        )
        name, path, called = typed, "", typed.partition("@")[0].rpartition("/")[2]
        _check_horizon(name, config.action.horizon)
    action, model = config.action, config.model
    checkpoint = FullCheckpoint(name, action, model.image_size, model.system_prompt, json.dumps(entries), key, path)
    known = next(iter(entries), "found with the model")
    return checkpoint, called, (f"full checkpoint: {name}, chunks of {action.horizon}, statistics: {known}",)


def _check_horizon(name: str, horizon: int) -> None:
    expected = expected_horizon(name)
    check(
        not name.startswith(NORA_HUB) or horizon == expected,
        f"{name} predicts chunks of {expected}, and action.horizon={horizon}; add action.horizon={expected} "
        f"action.execute={expected}",
    )
