"""A small base and adapter with random weights: everything the real ones have, made in a second, no data needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from configs.choices import Role, Subset
from configs.model import LoraConfig, ModelConfig
from configs.phases import PhaseSpec, Segment
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.libero_utils import SUITE_OF
from training import action_tokenizer
from training.action_tokenizer import FastTokenizer
from training.base_folder import TINY, locate_base
from training.card import AdapterCard, package_versions
from training.lora_model import (
    ACTION_TOKENIZER_FILE,
    Companions,
    add_flow_tokens,
    attach_lora,
    load_base,
    save_adapter,
    tokenizer_digest,
)
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base

HORIZON = 8
CODES = 256
FLOW_CODES = 26
SMALL = ModelConfig(
    base=TINY,
    image_size=56,
    system_prompt=False,
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
    text_vocab=400,
    flow_rows=32,
)
ACTION = Segment(Role.ACTION, "action", 1.0)
TEXT = Segment(Role.TEXT, "reasoning", 0.5)
FLOW = Segment(Role.FLOW, "flow", 0.5)
BASELINE = PhaseSpec("baseline", (ACTION,))
TEXT_COT = PhaseSpec("text_cot", (TEXT, ACTION))
TEXT_FLOW_COT = PhaseSpec("text_flow_cot", (TEXT, FLOW, ACTION))
CORPUS = (
    "pick up the alphabet soup and place it in the basket",
    "move left and down; the gripper is 6 cm left of the alphabet soup",
    "reach the bowl, grasp it, lift it, and place it on the plate",
)


def smooth_chunks(count: int, horizon: int = HORIZON, seed: int = 0) -> list[np.ndarray]:
    """float32 [horizon, 7] each, in [-1, 1]: random walks; gripper 0 or 1, sometimes switching."""
    rng = np.random.default_rng(seed)
    walks = np.cumsum(rng.normal(0, 0.1, (count, horizon, 7)), axis=1) + rng.uniform(-0.8, 0.8, (count, 1, 7))
    chunks = np.clip(walks, -1, 1).astype(np.float32)
    chunks[..., 6] = np.cumsum(rng.random((count, horizon)) < 0.05, axis=1) % 2 == rng.integers(0, 2, (count, 1))
    return list(chunks)


def fitted_actions(horizon: int = HORIZON, codes: int = CODES) -> FastTokenizer:
    """A FAST tokenizer fitted on smooth random chunks."""
    return action_tokenizer.fit(smooth_chunks(500, horizon), horizon, scale=5.0, num_codes=codes)


def write_hub_fast(folder: Path, scale: float = 5.0, min_token: int = -354, num_codes: int = 400) -> Path:
    """A stand-in for FAST+'s data files: the same format, fitted on smooth random chunks. Returns the folder."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=num_codes,
        min_frequency=2,
        initial_alphabet=[
            *pre_tokenizers.ByteLevel.alphabet(),
            chr(0x4E00),
        ],  # one dead entry, as in the published files
        special_tokens=[],
        show_progress=False,
    )
    grids = [action_tokenizer.quantise(chunk, scale) - min_token for chunk in smooth_chunks(500)]
    tokenizer.train_from_iterator(["".join(map(chr, grid)) for grid in grids], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"scale": scale, "min_token": min_token, "vocab_size": num_codes, "action_dim": None}
    (folder / "processor_config.json").write_text(json.dumps(values))
    return folder


def wide_statistics(subset: Subset) -> ActionStatistics:
    """Statistics of uniform actions: normalisation close to the identity."""
    rng = np.random.default_rng(0)
    return ActionStatistics.of(SUITE_OF[subset], [rng.uniform(-1, 1, (500, 7))], [rng.uniform(-1, 1, (500, 8))])


def write_tiny_base(folder: Path, model: ModelConfig = SMALL, seed: int = 0) -> Path:
    """A base folder with random weights and an action tokenizer. Returns it.

    Embedding rows have length one, as after training: LoRA leaves them as they are, and the published start of 0.02
    per entry is too short for any of them to win a softmax.
    """
    actions = fitted_actions()
    tokenizer = build_tokenizer([*CORPUS] * 4, model.text_vocab, actions.num_codes)
    built = build_model(build_config(tokenizer, model), seed)
    with torch.no_grad():
        built.get_input_embeddings().weight.normal_(std=model.hidden**-0.5)
    save_base(folder, built, tokenizer, model)
    actions.save(folder / ACTION_TOKENIZER_FILE)
    return folder


@dataclass(frozen=True)
class TinyAdapter:
    """Folders of a random adapter and its base."""

    base: Path
    checkpoint: Path


def write_tiny_adapter(
    folder: Path,
    phase: PhaseSpec = BASELINE,
    model: ModelConfig = SMALL,
    subset: Subset = Subset.OBJECT,
    seed: int = 0,
) -> TinyAdapter:
    """A random base in folder/base and a random adapter of `phase` in folder/checkpoint-final."""
    base = locate_base(TINY, folder=write_tiny_base(folder / "base", model, seed))
    loaded, tokenizer = load_base(base.path, torch.float32)
    actions = action_tokenizer.load(base.path / ACTION_TOKENIZER_FILE)
    num_flow = FLOW_CODES if any(s.role is Role.FLOW for s in phase.segments) else 0
    new_tokens = add_flow_tokens(loaded, tokenizer, num_flow, seed)
    adapted = attach_lora(loaded, LoraConfig(rank=4, alpha=8), base.name, new_tokens, seed)
    statistics = wide_statistics(subset)
    card = AdapterCard(
        base=base.name,
        base_digest=base.digest,
        phase=phase,
        subset=subset,
        horizon=HORIZON,
        image_size=model.image_size,
        image_frame="rot180",
        system_prompt=model.system_prompt,
        num_flow_codes=num_flow,
        flow_tokenizer="",
        action_tokenizer=actions.digest,
        text_tokenizer=tokenizer_digest(tokenizer),
        statistics=statistics.dataset,
        steps=0,
        versions=package_versions(),
    )
    checkpoint = folder / "checkpoint-final"
    save_adapter(checkpoint, adapted, Companions(tokenizer, actions, statistics, card))
    return TinyAdapter(base.path, checkpoint)
