"""Backbone + LoRA + tokenizers: made for training, saved as an adapter folder (loaded_policy.py loads it again).

A checkpoint folder holds adapter_model.safetensors and adapter_config.json (plain PEFT), the tokenizer's files,
action_tokenizer.json, dataset_statistics.json and adapter_card.json. None of its bytes depends on where it lies.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoTokenizer, BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

from configs.checks import check
from configs.model import LoraConfig
from configs.phases import PhaseSpec
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from training.action_tokenizer import ACTION_TOKENIZER_FILE, FastTokenizer
from training.card import ADAPTER_WEIGHTS, AdapterCard, save_card
from training.layout import Layout, Vocabulary
from training.tiny_backbone import add_numbered_tokens, visual_tokens

TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Full names of the adapted layers. Anchored: a list of suffixes would also hit the vision tower's MLP."""


ACTION_TOKEN = "<robot_action_{}>"
IMAGE_FRAME = "rot180"
"""Of the policy's image; see data_pipeline.image_frame."""

_MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys")


# ------------------------------------------------------------------ the base


def load_base(
    folder: Path, dtype: torch.dtype, bits: int = 16, device: str = "cpu"
) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """Model (evaluation mode) and tokenizer of a model folder, in the key layout of transformers 4 or 5.

    bits: 4 or 8 quantise the layers that LoRA adapts, on `device`; the vision tower and the head stay as they are.
    Asserts the tie where the configuration asks for it. Raises ConfigError where the weights are not those of the model
    class: missing ones would be random.
    """
    loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, by name, instead of "see above"
        **_quantised(bits, dtype, device),
    )
    model, info = loaded
    wrong = [f"{what.partition('_')[0]} {sorted(map(str, info[what]))[0]}" for what in _MISFITS if info[what]]
    check(not wrong, f"{folder} holds no Qwen2.5-VL model as NORA is one: {'; '.join(wrong)}")
    model.eval()
    if bits != 16:
        _settle_quantised(model)
    if model.config.tie_word_embeddings:
        assert model.lm_head.weight is model.get_input_embeddings().weight, "the head is not tied to the embeddings"
    return model, load_tokenizer(folder)


def _quantised(bits: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments of from_pretrained. What is skipped is named in full: `visual` alone matches nothing."""
    if bits == 16:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _settle_quantised(model: Any) -> None:
    """Check that exactly the layers that LoRA adapts are quantised, and keep them as they are."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    found: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, (Linear4bit, Linear8bitLt))}
    for module in found.values():
        # On some CPUs evaluation would repack the weights: other numbers than in training, and not of every width.
        module.support_avx512bf16_for_cpu = False
    names = set(found)
    wanted = {name for name, _ in model.named_modules() if re.fullmatch(TARGETS, name)}
    assert names == wanted, f"quantised {len(names)} layers, LoRA adapts {len(wanted)}: {sorted(names ^ wanted)[:1]}"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base or adapter folder."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def on_device(model: Any, device: str) -> Any:
    """The model, moved there. (Its own `to` has a type that a checker cannot follow.)"""
    return model.to(device)


def add_action_tokens(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Any, num_codes: int, seed: int
) -> list[int]:
    """Name `<robot_action_0..>` where the base knows no actions, as plain Qwen2.5-VL; returns the ids made."""
    known = ACTION_TOKEN.format(0) in tokenizer.get_vocab()
    return [] if known else _add_tokens(model, tokenizer, ACTION_TOKEN, num_codes, seed)


def add_flow_tokens(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Any, num_codes: int, seed: int) -> list[int]:
    """Name `<flow_0..>`; returns their ids."""
    return _add_tokens(model, tokenizer, "<flow_{}>", num_codes, seed)


def _add_tokens(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Any, name: str, count: int, seed: int
) -> list[int]:
    """Name tokens after the tokenizer's last id; new rows only where the embedding has none to spare.

    Returns their ids. Rows made here start from draws of `seed`, about the mean of the others.
    """
    first = len(tokenizer)
    add_numbered_tokens(tokenizer, name, count)
    fit_embedding(model, len(tokenizer), seed)
    return list(range(first, first + count))


def fit_embedding(model: Qwen2_5_VLForConditionalGeneration, rows: int, seed: int) -> None:
    """Grow the embedding (and the head) to `rows` if it has fewer."""
    embedding: Any = model.get_input_embeddings()
    if embedding.num_embeddings < rows:
        torch.manual_seed(seed)
        model.resize_token_embeddings(rows)


# ------------------------------------------------------------------ the adapter


def attach_lora(
    model: Qwen2_5_VLForConditionalGeneration, lora: LoraConfig, base_name: str, new_tokens: Sequence[int], seed: int
) -> PeftModel:
    """LoRA on the language model's linear layers, and trainable rows for `new_tokens` in embedding and head."""
    config = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=TARGETS,
        trainable_token_indices={"embed_tokens": list(new_tokens), "lm_head": list(new_tokens)} if new_tokens else None,
        base_model_name_or_path=base_name,
    )
    torch.manual_seed(seed)
    model.name_or_path = base_name  # what PEFT writes down; a path would make the bytes depend on the machine
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trainable, "no layer was adapted"
    assert not [name for name in trainable if ".visual." in name], "the vision tower must stay frozen"
    return adapted


def bare(model: Any) -> Any:
    """The Qwen model inside a PeftModel, or the model itself where all of it trains."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged_copy(model: Any) -> Any:
    """A plain model that says what `model` says: a copy with the adapter merged in, or the model itself."""
    return copy.deepcopy(model).merge_and_unload().eval() if isinstance(model, PeftModel) else model


@dataclass(frozen=True)
class Companions:
    """What lies beside the weights of every checkpoint."""

    tokenizer: Any
    actions: FastTokenizer
    statistics: ActionStatistics
    card: AdapterCard

    def save(self, folder: Path) -> None:
        """Write them."""
        self.tokenizer.save_pretrained(folder)
        self.actions.save(folder / ACTION_TOKENIZER_FILE)
        self.statistics.save(folder / STATISTICS_FILE)
        save_card(folder, self.card)


def save_adapter(folder: Path, model: PeftModel, companions: Companions) -> None:
    """Write a checkpoint folder; its bytes depend on the arguments alone."""
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors leaves it to the owner alone
    _write_adapter_config(folder / "adapter_config.json", model)
    companions.save(folder)


def _write_adapter_config(path: Path, model: PeftModel) -> None:
    values: dict[str, Any] = model.peft_config["default"].to_dict() | {"inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    path.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of the tokenizer's own serialisation."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def make_layout(
    phase: PhaseSpec,
    tokenizer: Any,
    actions: FastTokenizer,
    num_flow_codes: int,
    image_size: int,
    system_prompt: bool,  # noqa: FBT001 - a fact of the model, not a choice of method
) -> Layout:
    """The layout of one phase with these tokenizers; the same for training and evaluation."""
    encoder = tokenizer.backend_tokenizer
    return Layout(
        phase=phase,
        vocabulary=Vocabulary.of(tokenizer, actions.num_codes, num_flow_codes),
        encode_text=lambda text: encoder.encode(text, add_special_tokens=False).ids,
        encode_actions=actions.encode,
        visual_tokens=visual_tokens(image_size),
        system_prompt=system_prompt,
    )
