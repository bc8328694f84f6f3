"""The collator's tensors, beside the published processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor

from tests.helpers.forward_inputs import forward_inputs, patchify
from tests.helpers.tiny_adapter import BASELINE, SMALL, TEXT_COT
from tests.training.test_layout import layout_of
from training.batch import image_grid, shift_image
from training.dataset import TrainingData
from training.lora_model import load_base
from training.network import Network
from training.sampling import SamplingPlan, StepInputs


def test_patches_equal_the_processors(base: Path) -> None:
    """The published processor on an image of the policy's size, which it does not resize."""
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    images = np.random.default_rng(0).integers(0, 256, (3, SMALL.image_size, SMALL.image_size, 3), dtype=np.uint8)
    theirs = processor.image_processor(
        images=[torch.from_numpy(i).permute(2, 0, 1) for i in images], return_tensors="pt"
    )
    assert torch.equal(theirs["image_grid_thw"], image_grid(3, SMALL.image_size))
    ours = patchify(torch.from_numpy(images))
    assert ours.shape == theirs["pixel_values"].shape
    assert torch.equal(ours, theirs["pixel_values"])


def test_without_token_types_the_model_would_place_image_tokens_in_a_row(base: Path, data: TrainingData) -> None:
    """Why the batch carries positions of its own: the library's change silently without token types."""
    layout = layout_of(base, BASELINE)
    batch = StepInputs(data, layout, SamplingPlan(0, 2, 1, 1.0), 1)[0].batches[0]
    model, _ = load_base(base, torch.float32)
    inputs = forward_inputs(batch, layout.vocabulary)
    assert int(inputs["mm_token_type_ids"].sum()) == 2 * (SMALL.image_size // 28) ** 2
    with torch.no_grad():
        right = model.model(**inputs).last_hidden_state
        model.model.rope_deltas = None
        wrong = model.model(
            **(inputs | {"mm_token_type_ids": torch.zeros_like(inputs["mm_token_type_ids"])})
        ).last_hidden_state
        ours = Network(model).hidden(batch)
    real = inputs["attention_mask"].bool()
    assert torch.equal(batch.real, real)
    torch.testing.assert_close(ours[real], right[real], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(right, wrong, atol=1e-4)


def test_rows_of_unequal_length_give_what_each_gives_alone(base: Path, data: TrainingData) -> None:
    """No mask hides the padding: nothing real may depend on it, whatever stands there."""
    batch = StepInputs(data, layout_of(base, TEXT_COT), SamplingPlan(0, 6, 1, 0.0), 1)[0].batches[0]
    real = batch.real
    assert not real.all()
    noise = torch.where(real, batch.input_ids, 7)
    network = Network(load_base(base, torch.float32)[0])
    with torch.no_grad():
        one, other = network.hidden(batch), network.hidden(replace(batch, input_ids=noise))
    assert torch.equal(one[real], other[real])


def test_a_shift_moves_the_picture_and_repeats_the_edge() -> None:
    image = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    assert shift_image(image, 0, np.random.default_rng(0)) is image
    moved = {shift_image(image, 1, np.random.default_rng(s)).tobytes() for s in range(60)}
    assert len(moved) == 9
    assert image.tobytes() in moved
