"""A checkpoint folder -> a model that is ready to decode, with everything it needs; what does not fit is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import Qwen2_5_VLForConditionalGeneration

from configs.checks import ConfigError, check
from configs.choices import Weights
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.contract import EnvironmentProblem, digest
from training import action_tokenizer
from training.action_tokenizer import ACTION_TOKENIZER_FILE, FastTokenizer
from training.base_folder import TINY, BaseFolder, locate_base
from training.card import ADAPTER_WEIGHTS, AdapterCard, check_weights, load_card
from training.layout import Layout
from training.lora_model import (
    IMAGE_FRAME,
    TARGETS,
    fit_embedding,
    load_base,
    load_tokenizer,
    make_layout,
    on_device,
    tokenizer_digest,
)
from training.warm_base import BaseKey, WarmBase


@dataclass(frozen=True)
class LoadedPolicy:
    """A checkpoint ready to decode. `model` is a plain Qwen model, an adapter merged in.

    Loaded through a WarmBase, it is good until the next load through the same one, which takes its model.
    """

    model: Qwen2_5_VLForConditionalGeneration
    tokenizer: Any  # transformers' fast tokenizer
    action_tokenizer: FastTokenizer
    statistics: ActionStatistics
    card: AdapterCard
    layout: Layout


def load_checkpoint(
    checkpoint: Path, base: Path | str | None, device: str, dtype: torch.dtype, warm: WarmBase | None = None
) -> LoadedPolicy:
    """Load a checkpoint folder: an adapter on its base, or a whole model, which needs no base.

    base: the base model's folder or hub id; None: the hub id on the card. warm: keeps the base in memory for the next
    adapter. Raises ConfigError where base or tokenizers are not those the checkpoint was trained with,
    EnvironmentProblem where something is missing.
    """
    warm = warm or WarmBase()
    card = load_card(checkpoint)
    check_weights(checkpoint, card)
    actions, tokenizer = action_tokenizer.load(checkpoint / ACTION_TOKENIZER_FILE), load_tokenizer(checkpoint)
    _check_files(checkpoint, card, actions, tokenizer)
    statistics = ActionStatistics.load(checkpoint / STATISTICS_FILE, card.statistics)
    if card.weights is Weights.ADAPTER:
        found = find_base(card, base)
        _check_base(card, found, checkpoint)
        _check_scale(card, found, statistics, checkpoint)
        model = _on_base(checkpoint, found.path, BaseKey(found.digest, device, dtype), len(tokenizer), warm)
    else:
        warm.release()
        model = on_device(load_base(checkpoint, dtype)[0], device)
    return LoadedPolicy(
        model,
        tokenizer,
        actions,
        statistics,
        card,
        make_layout(card.phase, tokenizer, actions, card.num_flow_codes, card.image_size, card.system_prompt),
    )


def _on_base(checkpoint: Path, base: Path, key: BaseKey, rows: int, warm: WarmBase) -> Any:
    """The base in the folder `base` with the adapter merged in. rows: of the tokenizer."""
    loaded = warm.take(key, TARGETS, lambda: on_device(load_base(base, key.dtype)[0], key.device))
    merged: Any = _attach(checkpoint, loaded.model, rows).merge_and_unload()
    warm.put_back(loaded)
    return merged.eval()


def load_attached(checkpoint: Path, base: Path, device: str, dtype: torch.dtype, bits: int = 16) -> Any:
    """The bare model of an adapter that is attached to its base, and not merged. bits: of the base, see load_base."""
    model, _ = load_base(base, dtype, bits, device)
    model = model if bits != 16 else on_device(model, device)
    return _attach(checkpoint, model, len(load_tokenizer(checkpoint))).get_base_model().eval()


def _attach(checkpoint: Path, model: Any, rows: int) -> PeftModel:
    _check_rank(checkpoint)
    fit_embedding(model, rows, seed=0)  # its new rows come from the adapter
    adapted = PeftModel.from_pretrained(model, str(checkpoint))
    names: Any = adapted.base_model.targeted_module_names
    foreign = [name for name in names if not re.fullmatch(TARGETS, name)]
    check(not foreign, f"{checkpoint} adapts {foreign[:1]}; allowed: {TARGETS}. It is no adapter of this project")
    return adapted


def find_base(card: AdapterCard, base: Path | str | None) -> BaseFolder:
    """The base of an adapter: a folder or hub id given, or None for the hub id on its card."""
    if base is None:
        name, _, revision = card.base.partition("@")
        if not revision:
            raise EnvironmentProblem(f"this adapter stands on {card.base}, which has no hub id; give the base's folder")
        return locate_base(name, revision)
    if card.base.startswith(f"{TINY}:"):
        return locate_base(TINY, folder=Path(base))
    return locate_base(str(base))


def _check_files(checkpoint: Path, card: AdapterCard, actions: FastTokenizer, tokenizer: Any) -> None:
    """What lies in the folder is what the card says."""
    text = tokenizer_digest(tokenizer)
    for name, found, trained in (
        (ACTION_TOKENIZER_FILE, actions.digest, card.action_tokenizer),
        ("tokenizer.json", text, card.text_tokenizer),
    ):
        check(
            found == trained,
            f"{checkpoint / name} ({found[:16]}) is not the one the checkpoint was trained with ({trained[:16]}, on "
            "its card); copy the whole checkpoint folder again",
        )
    check(
        card.image_frame == IMAGE_FRAME,
        f"{checkpoint} was trained on images in the frame {card.image_frame!r}; policies here see {IMAGE_FRAME!r}",
    )


def _check_rank(checkpoint: Path) -> None:
    """The adapter's weights are what its configuration says."""
    said = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    with safe_open(checkpoint / ADAPTER_WEIGHTS, framework="pt") as weights:
        ranks = {weights.get_slice(name).get_shape()[0] for name in weights.keys() if "lora_A" in name}  # noqa: SIM118
    check(
        ranks == {said},
        f"{checkpoint}: adapter_config.json says rank {said}, the weights have {sorted(ranks)}; copy the whole "
        "checkpoint folder again",
    )


def _check_scale(card: AdapterCard, base: BaseFolder, statistics: ActionStatistics, checkpoint: Path) -> None:
    """A tiny base brings the scale of its actions, which its adapters keep."""
    path = base.path / STATISTICS_FILE
    if card.base.startswith(f"{TINY}:") and path.is_file():
        brought = ActionStatistics.load(path)
        own, wanted = digest(statistics.record), digest(brought.record)
        check(
            own == wanted or statistics.dataset != brought.dataset,
            f"{checkpoint / STATISTICS_FILE} ({own[:16]}) is not the scale of its base, {path} ({wanted[:16]}); copy "
            "the whole checkpoint folder again",
        )


def _check_base(card: AdapterCard, base: BaseFolder, checkpoint: Path) -> None:
    if base.digest != card.base_digest:
        raise ConfigError(
            f"{checkpoint} was trained on {card.base} (digest {card.base_digest[:16]}), "
            f"but the base given is {base.name} (digest {base.digest[:16]}); give the base it was trained on"
        )
