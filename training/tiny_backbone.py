"""The tiny backbone: NORA's model class from a shrunken configuration, and a tokenizer fitted here. No downloads.

`Qwen2_5_VLForConditionalGeneration` with about 1.2 M parameters; a byte-level BPE with Qwen's pre-tokeniser and
special tokens; `<robot_action_0..>` after them, then `flow_rows` embedding rows without a name, which `<flow_i>`
tokens take when a phase has a flow segment. So an adapter trained with flow tokens loads on the saved folder as it
is, without resizing. Ids are looked up by name everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from configs.model import ModelConfig
from training.layout import ACTION_TAG, END_TOKEN, FLOW_TAG, IMAGE_TOKEN, SYSTEM_PROMPT
from training.reasoning_text import TAGS

PATCH = 14  # pixels
MERGE = 2  # patches per visual token and axis
WINDOW = 112  # pixels
END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_TOKEN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
"""Qwen2.5-VL's, in its order."""

TEMPLATE_WORDS = (
    *(f"{tag}: " for tag in (*TAGS, *TAGS)),
    f" {FLOW_TAG}",
    f" {ACTION_TAG}",
    SYSTEM_PROMPT,
    "system\n",
    "user\n",
    "assistant\n",
)

_SYSTEM_BLOCK = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM_PROMPT
    + "<|im_end|>\n{% endif %}"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "[SYSTEM]<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_template(*, system_prompt: bool) -> str:
    """Qwen2.5-VL's turns for text and images, with or without its default system turn."""
    return _CHAT_TEMPLATE.replace("[SYSTEM]", _SYSTEM_BLOCK if system_prompt else "")


def visual_tokens(image_size: int) -> int:
    """Tokens of one square image after the merge."""
    return (image_size // (PATCH * MERGE)) ** 2


def build_tokenizer(corpus: Iterable[str], text_vocab: int, action_codes: int) -> Qwen2Tokenizer:
    """Fit the text BPE on `corpus` (deterministic in its order), then add control and action tokens."""
    vocabulary, merges = _fit_text(corpus, text_vocab)
    # Qwen2Tokenizer's constructor appends eos, pad and unk in an order of its own, so all three start as one token.
    one = END_OF_TEXT
    tokenizer: Any = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token=one, pad_token=one, unk_token=one)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL_TOKENS])
    tokenizer.eos_token = END_TOKEN
    add_numbered_tokens(tokenizer, "<robot_action_{}>", action_codes)
    tokenizer.padding_side = "left"
    return tokenizer


def add_numbered_tokens(tokenizer: Any, name: str, count: int) -> None:
    """Append name.format(0..count-1) to the vocabulary, as ordinary (not special) tokens."""
    tokenizer.add_tokens([AddedToken(name.format(i), special=False, normalized=False) for i in range(count)])


def _fit_text(corpus: Iterable[str], size: int) -> tuple[dict[str, int], Any]:
    """Vocabulary and merges (pairs of pieces), as Qwen2Tokenizer takes them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for part in (TEMPLATE_WORDS, corpus) for text in part), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def build_config(tokenizer: Qwen2Tokenizer, model: ModelConfig) -> Qwen2_5_VLConfig:
    """The sizes of `model` in Qwen2.5-VL's terms; tied embeddings; `flow_rows` rows more than the tokenizer has."""
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in CONTROL_TOKENS}
    ends: dict[str, Any] = {
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[END_TOKEN],
        "pad_token_id": ids[END_OF_TEXT],
    }
    half_head = model.hidden // model.heads // 2
    text = {
        "vocab_size": len(tokenizer) + model.flow_rows,
        "hidden_size": model.hidden,
        "intermediate_size": _feed_forward(model.hidden),
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": _rotary_sections(half_head),
        },
        **ends,
    }
    vision = {
        "depth": model.vision_layers,
        "hidden_size": model.vision_hidden,
        "intermediate_size": _feed_forward(model.vision_hidden),
        "num_heads": model.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": WINDOW,
        "out_hidden_size": model.hidden,
        "fullatt_block_indexes": [model.vision_layers - 1],
        "tokens_per_second": 2,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        **ends,
    )


def _feed_forward(width: int) -> int:
    return width * 8 // 3 // 32 * 32


def _rotary_sections(half_head: int) -> list[int]:
    """Time, height, width shares of the rotary frequencies, about 1 : 1.5 : 1.5 as in the published model."""
    time = half_head // 4
    height = (half_head - time) // 2
    return [time, height, half_head - time - height]


def build_model(config: Qwen2_5_VLConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config)


def save_base(
    folder: Path, model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, config: ModelConfig
) -> None:
    """Write an ordinary model folder: config.json, model.safetensors, tokenizer, processor, chat template."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to the owner alone
    build_processor(tokenizer, config).save_pretrained(folder)


def build_processor(tokenizer: Qwen2Tokenizer, config: ModelConfig) -> Qwen2_5_VLProcessor:
    """The published processor's class, for images of one size."""
    pixels = config.image_size**2
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": min(56 * 56, pixels), "longest_edge": pixels}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=chat_template(system_prompt=config.system_prompt),
    )
