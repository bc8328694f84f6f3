"""What a base must have before adapters are trained on it, measured on the loaded model; with an adapter, on both."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.checks import ConfigError
from configs.choices import Role
from configs.phases import PhaseSpec, Segment
from evaluation.generation import Generator, Request
from evaluation.interface import constraint_of
from evaluation.policy import barred_from_text
from training.action_tokenizer import FastTokenizer
from training.layout import Layout, Vocabulary, action_tag_ids, inference_prefix
from training.lora_model import make_layout

GREY = 128
INSTRUCTION = "pick up the bowl and place it on the plate"
_PHASE = PhaseSpec("base", (Segment(Role.ACTION, "action"),))
_ACTION = re.compile(r"<robot_action_\d+>")


@dataclass(frozen=True)
class Finding:
    """One property."""

    name: str
    good: bool
    says: str  # what was measured


def examine(
    model: Any,
    tokenizer: Any,
    actions: FastTokenizer,
    image_size: int,
    *,
    system_prompt: bool,
) -> Iterator[Finding]:
    """Findings in turn; the last one, only where the vocabulary is sound. model: bare, in evaluation mode."""
    yield _weights(model)
    yield _head(model)
    yield (rows := _rows(model, tokenizer))
    yield (tokens := _action_tokens(tokenizer, actions))
    if rows.good and tokens.good:
        layout = make_layout(_PHASE, tokenizer, actions, 0, image_size, system_prompt)
        yield _decode(model, tokenizer, actions, layout, image_size)


def _weights(model: Any) -> Finding:
    count = sum(p.numel() for p in model.parameters()) / 1e6
    return Finding("weights", good=True, says=f"{count:,.1f} M, {model.dtype} on {model.device}; all of them, no other")


def _head(model: Any) -> Finding:
    wanted, found = model.config.tie_word_embeddings, model.lm_head.weight is model.get_input_embeddings().weight
    words = {True: "one with the embedding", False: "apart from the embedding"}
    return Finding("head", wanted == found, f"{words[found]}; config.json wants it {words[wanted]}")


def _rows(model: Any, tokenizer: Any) -> Finding:
    rows, head, tokens = model.get_input_embeddings().num_embeddings, model.lm_head.out_features, len(tokenizer)
    return Finding(
        "vocabulary", tokens <= rows == head, f"{tokens} tokens, {rows} rows of the embedding, {head} of the head"
    )


def _action_tokens(tokenizer: Any, actions: FastTokenizer) -> Finding:
    count = sum(_ACTION.fullmatch(name) is not None for name in tokenizer.get_vocab())
    codes = actions.num_codes
    says = f"{count} action tokens, {codes} codes of the action tokenizer (scale {actions.scale:g})"
    try:
        first = Vocabulary.of(tokenizer, codes, 0).action_start
    except ConfigError as problem:
        return Finding("actions", good=False, says=f"{says}: {problem}")
    return Finding("actions", count == codes, f"{says}, ids {first} to {first + codes - 1} without a gap")


def _decode(model: Any, tokenizer: Any, actions: FastTokenizer, layout: Layout, image_size: int) -> Finding:
    """One greedy chunk before a grey image."""
    generator = Generator(
        model,
        layout.vocabulary,
        constraint_of(actions),
        action_tag_ids(layout),
        barred_from_text(layout.vocabulary, tokenizer, model.get_input_embeddings().num_embeddings),
        image_size,
        fixed_shapes=False,
    )
    prompt = inference_prefix(layout, INSTRUCTION)
    request = Request(prompt, np.full((image_size, image_size, 3), GREY, np.uint8))
    began = time.perf_counter()
    (written,) = generator.generate([request], len(prompt), think=False, max_new_tokens=0)
    took = time.perf_counter() - began
    chunk = actions.decode(written.codes)
    free = "the same" if written.free_decodable else "something else"
    says = (
        f"a grey image: {len(written.codes)} tokens in {took:.2f} s after {len(prompt)} of prompt, {chunk.shape[0]} x "
        f"{chunk.shape[1]} actions of up to {np.abs(chunk).max():.2f} and the end (unconstrained: {free})"
    )
    return Finding("decode", bool(np.isfinite(chunk).all()), says)
