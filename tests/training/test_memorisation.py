"""The whole chain learns: tokens, prompt, image, loss, decoding. A few chunks must come back, free-running."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from configs.choices import Role
from configs.model import ActionConfig, OptimizerConfig
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import StageContext
from data_pipeline.raw_loader import Hdf5Source
from tests.helpers.forward_inputs import patchify
from tests.helpers.tiny_adapter import BASELINE, SMALL
from tests.helpers.training_study import TRAINER, write_study
from training.batch import image_grid
from training.dataset import TrainingData, load_training_data
from training.layout import Layout, inference_prefix
from training.loop import fit
from training.lora_model import make_layout
from training.run import Run, make_accelerator
from training.sampling import SamplingPlan, StepInputs
from training.tiny_backbone import build_config, build_model, build_tokenizer
from training.train_inputs import make_actions

STEPS = 120
LEARNING_RATE = 5e-3
MODEL = replace(SMALL, hidden=64, heads=4, kv_heads=2, vision_hidden=48)


def training_data(folder: Path) -> tuple[TrainingData, ActionStatistics]:
    study = write_study(folder, demos=2, steps=16)
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")
    episodes = [source.open(e) for e in source.list()]
    data = load_training_data(episodes, {study.subset: statistics}, 8, MODEL.image_size, folder / "f.npy")
    # Synthetic pictures of neighbouring steps are alike; here each step must be told from its picture alone.
    tiles = np.random.default_rng(0).integers(0, 256, (len(data), 4, 4, 3), dtype=np.uint8)
    side = MODEL.image_size // 4
    return replace(data, frames=tiles.repeat(side, axis=1).repeat(side, axis=2)), statistics


@torch.no_grad()
def greedy(
    model: torch.nn.Module, layout: Layout, lengths: np.ndarray, images: np.ndarray, instruction: str
) -> list[list[int]]:
    """Codes for each image. lengths: coefficients per code; a code that would spell too many is masked."""
    count, first = len(images), layout.vocabulary.action_start
    ids = torch.tensor([inference_prefix(layout, instruction)] * count)
    pixels, grid = patchify(torch.from_numpy(images)), image_grid(count, MODEL.image_size)
    left, written = np.full(count, 56), [[] for _ in range(count)]
    while left.any():
        types = (ids == layout.vocabulary.image).int()
        hidden = model.model(
            input_ids=ids, mm_token_type_ids=types, pixel_values=pixels, image_grid_thw=grid, use_cache=False
        ).last_hidden_state[:, -1]
        logits = model.lm_head(hidden)[:, first : first + len(lengths)].numpy()
        allowed = (lengths[None] > 0) & (lengths[None] <= left[:, None])
        allowed[left == 0, 0] = True  # finished rows: anything, unread
        codes = np.where(allowed, logits, -np.inf).argmax(1)
        for row in np.flatnonzero(left):
            written[row].append(int(codes[row]))
            left[row] -= lengths[codes[row]]
        ids = torch.cat([ids, torch.from_numpy(codes)[:, None] + first], dim=1)
    return written


def test_sixty_four_chunks_are_memorised(tmp_path: Path) -> None:
    data, statistics = training_data(tmp_path)
    assert len(data) <= 64
    actions = make_actions(
        ActionConfig(horizon=8, tokenizer="fit", scale=5.0, codes=256), (e.actions for e in data.episodes), largest=1.0
    )
    tokenizer = build_tokenizer([e.instruction for e in data.episodes], MODEL.text_vocab, 256)
    model = build_model(build_config(tokenizer, MODEL), 0)
    layout = make_layout(BASELINE, tokenizer, actions, 0, MODEL.image_size, MODEL.system_prompt)
    run = Run(
        model=model,
        inputs=StepInputs(data, layout, SamplingPlan(0, 32, 1, 1.0), STEPS),
        role_weights={Role.ACTION: 1.0},
        schedule=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_steps=20),
        steps=STEPS,
        seed=0,
        accelerator=make_accelerator(TRAINER, "no"),
    )
    fit(run, replace(TRAINER, checkpoint_every=10**6), StageContext(tmp_path, {}))
    model.eval()
    truth, found = [], []
    for instruction, group in groupby(range(len(data)), lambda n: data.sample(n).instruction):
        samples = [data.sample(number) for number in group]
        images = np.stack([s.image for s in samples])
        truth += [s.parts["action"] for s in samples]
        found += [actions.decode(c) for c in greedy(model, layout, actions.coefficients, images, instruction)]
    still = statistics.normalize(np.zeros(7))[:6]
    ours = np.abs(np.stack(found) - np.stack(truth))[..., :6].mean()
    zero = np.abs(still - np.stack(truth)[..., :6]).mean()
    print(f"MAE of the first six normalised dimensions: model {ours:.3f}, zero action {zero:.3f}")
    assert ours < zero / 4
