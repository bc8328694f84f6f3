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
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.contract import EnvironmentProblem
from training import action_tokenizer
from training.action_tokenizer import ACTION_TOKENIZER_FILE, FastTokenizer
from training.base_folder import TINY, BaseFolder, locate_base
from training.card import AdapterCard, load_card
from training.layout import Layout
from training.lora_model import (
    ADAPTER_WEIGHTS,
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
    """An adapter on its base, ready to decode. `model` is the plain Qwen model with the adapter merged in.

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
    """Load a checkpoint folder on its base.

    base: the base model's folder or hub id; None: the hub id on the card. warm: keeps the base in memory for the next
    adapter. Raises ConfigError where base or action tokenizer are not those the adapter was trained with,
    EnvironmentProblem where something is missing.
    """
    warm = warm or WarmBase()
    card = load_card(checkpoint)
    actions = action_tokenizer.load(checkpoint / ACTION_TOKENIZER_FILE)
    check(
        actions.digest == card.action_tokenizer,
        f"{checkpoint / ACTION_TOKENIZER_FILE} ({actions.digest[:16]}) is not the one the adapter was trained with "
        f"({card.action_tokenizer[:16]}, on its card); copy the whole checkpoint folder again",
    )
    folder = _find_base(card, base)
    _check_base(card, folder, checkpoint)
    key = BaseKey(folder.digest, device, dtype)
    loaded = warm.take(key, TARGETS, lambda: on_device(load_base(folder.path, dtype)[0], device))
    tokenizer = load_tokenizer(checkpoint)
    _check_files(checkpoint, card, tokenizer)
    fit_embedding(loaded.model, len(tokenizer), seed=0)  # its new rows come from the adapter
    adapted = PeftModel.from_pretrained(loaded.model, str(checkpoint))
    names: Any = adapted.base_model.targeted_module_names
    foreign = [name for name in names if not re.fullmatch(TARGETS, name)]
    check(not foreign, f"{checkpoint} adapts {foreign[:1]}; allowed: {TARGETS}. It is no adapter of this project")
    merged = adapted.merge_and_unload().eval()
    warm.put_back(loaded)
    return LoadedPolicy(
        merged,
        tokenizer,
        actions,
        ActionStatistics.load(checkpoint / STATISTICS_FILE, card.statistics),
        card,
        make_layout(card.phase, tokenizer, actions, card.num_flow_codes, card.image_size, card.system_prompt),
    )


def _find_base(card: AdapterCard, base: Path | str | None) -> BaseFolder:
    if base is None:
        name, _, revision = card.base.partition("@")
        if not revision:
            raise EnvironmentProblem(f"this adapter stands on {card.base}, which has no hub id; give the base's folder")
        return locate_base(name, revision)
    if card.base.startswith(f"{TINY}:"):
        return locate_base(TINY, folder=Path(base))
    return locate_base(str(base))


def _check_files(checkpoint: Path, card: AdapterCard, tokenizer: Any) -> None:
    """What lies in the folder is what the card and the adapter's configuration say."""
    text, copy_again = tokenizer_digest(tokenizer), "copy the whole checkpoint folder again"
    check(
        text == card.text_tokenizer,
        f"{checkpoint / 'tokenizer.json'} ({text[:16]}) is not the one the adapter was trained with "
        f"({card.text_tokenizer[:16]}, on its card); {copy_again}",
    )
    check(
        card.image_frame == IMAGE_FRAME,
        f"{checkpoint} was trained on images in the frame {card.image_frame!r}; policies here see {IMAGE_FRAME!r}",
    )
    said = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    with safe_open(checkpoint / ADAPTER_WEIGHTS, framework="pt") as weights:
        ranks = {weights.get_slice(name).get_shape()[0] for name in weights.keys() if "lora_A" in name}  # noqa: SIM118
    check(
        ranks == {said},
        f"{checkpoint}: adapter_config.json says rank {said}, the weights have {sorted(ranks)}; {copy_again}",
    )


def _check_base(card: AdapterCard, base: BaseFolder, checkpoint: Path) -> None:
    if base.digest != card.base_digest:
        raise ConfigError(
            f"{checkpoint} was trained on {card.base} (digest {card.base_digest[:16]}), "
            f"but the base given is {base.name} (digest {base.digest[:16]}); give the base it was trained on"
        )
