"""The loss means the same whatever the pieces, and a phase without reasoning is the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.choices import Role
from configs.model import LoraConfig
from configs.phases import PhaseSpec
from data_pipeline.contract import STATIC_CODE
from tests.helpers.forward_inputs import forward_inputs
from tests.helpers.tiny_adapter import (
    ACTION,
    BASELINE,
    FLOW,
    FLOW_CODES,
    SMALL,
    TEXT,
    TEXT_COT,
    TEXT_FLOW_COT,
    smooth_chunks,
)
from tests.training.test_layout import layout_of, sample
from training.batch import Batch, collate
from training.layout import EVERYTHING, IGNORE, TokenSequence, flatten, role_weights, spans
from training.lora_model import add_flow_tokens, attach_lora, load_base
from training.loss import role_shares, token_losses, weighted_sum
from training.network import Network
from training.sampling import role_totals
from training.vision_tower import VisionTower

WEIGHTS = role_weights(TEXT_FLOW_COT)


def sequences(base: Path, phase: PhaseSpec, reasons: list[bool]) -> list[TokenSequence]:
    layout = layout_of(base, phase)
    chunks = smooth_chunks(len(reasons), seed=5)
    samples = [replace(sample(), parts={**sample().parts, "action": c}) for c in chunks]
    return [flatten(spans(layout, s, () if r else EVERYTHING)) for s, r in zip(samples, reasons, strict=True)]


def batch_of(base: Path, phase: PhaseSpec, chosen: list[TokenSequence]) -> Batch:
    images = np.random.default_rng(len(chosen[0].ids)).integers(0, 256, (1, 56, 56, 3), dtype=np.uint8)
    return collate(chosen, np.repeat(images, len(chosen), axis=0), layout_of(base, phase))


def adapted_model(base: Path, flow: bool = True) -> torch.nn.Module:
    model, tokenizer = load_base(base, torch.float32)
    tokens = add_flow_tokens(model, tokenizer, FLOW_CODES, 0) if flow else []
    adapter = attach_lora(model, LoraConfig(rank=4, alpha=8, dropout=0.0), "tiny:x", tokens, 0)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:  # zero at the start: nothing would reach lora_A
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return adapter.get_base_model()


def gradients(
    model: torch.nn.Module, batches: list[Batch], totals: Mapping[Role, float], weights: Mapping[Role, float]
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        part = weighted_sum(role_shares(token_losses(Network(model), batch), totals), weights)
        part.backward()
        loss += part.item()
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_formula(base: Path) -> None:
    """Against full logits and a plain loop."""
    model = adapted_model(base)
    written = sequences(base, TEXT_FLOW_COT, [True, False, True])
    batch = batch_of(base, TEXT_FLOW_COT, written)
    loss = weighted_sum(role_shares(token_losses(Network(model), batch), role_totals(written)), WEIGHTS)
    logits = model(**forward_inputs(batch, layout_of(base, TEXT_FLOW_COT).vocabulary)).logits.log_softmax(-1)
    static = layout_of(base, TEXT_FLOW_COT).vocabulary.flow_start + STATIC_CODE
    expected = 0.0
    for number, role in enumerate(Role):
        cells = ((batch.role == number) & (batch.labels != IGNORE)).nonzero().tolist()
        if cells:
            weights = [FLOW.static_weight if batch.labels[row, column] == static else 1.0 for row, column in cells]
            losses = [-logits[row, column - 1, batch.labels[row, column]] for row, column in cells]
            mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
            expected += WEIGHTS[role] * float(mean)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_no_target_lies_in_the_prompt_or_on_padding(base: Path) -> None:
    batch = batch_of(base, TEXT_COT, sequences(base, TEXT_COT, [True, False]))
    supervised = batch.labels != IGNORE
    assert not (supervised & (batch.role == 0)).any()
    assert not (supervised & ~batch.real).any()
    assert not (supervised & (batch.input_ids == layout_of(base, TEXT_COT).vocabulary.image)).any()
    assert (batch.loss_weights[~supervised] == 0).all()


def test_without_reasoning_and_with_weights_zero_the_loss_is_the_baselines_bit_for_bit(base: Path) -> None:
    mute = PhaseSpec("mute", (replace(TEXT, loss_weight=0.0), replace(FLOW, loss_weight=0.0), ACTION))
    found = []
    for phase in (BASELINE, mute, TEXT_FLOW_COT):
        model = adapted_model(base, flow=False)
        written = sequences(base, phase, [False, False])
        batch = batch_of(base, phase, written)
        found.append(gradients(model, [batch], role_totals(written), role_weights(phase)))
    for loss, gradient in found[1:]:
        assert loss == found[0][0]
        assert gradient.keys() == found[0][1].keys()
        assert all(torch.equal(gradient[name], found[0][1][name]) for name in gradient)


def test_weight_zero_gives_the_reasoning_no_gradient(base: Path) -> None:
    model = adapted_model(base)
    written = sequences(base, TEXT_FLOW_COT, [True, True])
    batch = batch_of(base, TEXT_FLOW_COT, written)
    totals = role_totals(written)
    _, silent = gradients(model, [batch], totals, WEIGHTS | {Role.TEXT: 0.0, Role.FLOW: 0.0})
    _, action_only = gradients(model, [batch], {Role.ACTION: totals[Role.ACTION]}, WEIGHTS)
    for name, gradient in silent.items():
        torch.testing.assert_close(gradient, action_only[name], rtol=0, atol=1e-8)


def test_an_absent_role_adds_nothing(base: Path) -> None:
    model = adapted_model(base)
    written = sequences(base, TEXT_COT, [False])
    shares = role_shares(token_losses(Network(model), batch_of(base, TEXT_COT, written)), role_totals(written))
    assert set(shares) == {Role.ACTION}
    half = role_shares(
        token_losses(Network(model), batch_of(base, TEXT_COT, written)), {Role.TEXT: 10.0, Role.ACTION: 5.0}
    )
    assert float(half[Role.TEXT]) == 0.0


def test_accumulation_and_buckets_do_not_change_the_gradient(base: Path) -> None:
    model = adapted_model(base)
    written = sequences(base, TEXT_FLOW_COT, [True, False, False, True])
    totals = role_totals(written)
    cuts = ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[1, 2], [0, 3]])
    found = []
    for cut in cuts:
        batches = [batch_of_same_image(base, [written[i] for i in group]) for group in cut]
        found.append(gradients(model, batches, totals, WEIGHTS))
    reference_loss, reference = found[0]
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(reference_loss, rel=1e-6)
        for name, value in gradient.items():
            torch.testing.assert_close(value, reference[name], rtol=0, atol=1e-6)


def batch_of_same_image(base: Path, chosen: list[TokenSequence]) -> Batch:
    image = np.random.default_rng(1).integers(0, 256, (1, 56, 56, 3), dtype=np.uint8)
    return collate(chosen, np.repeat(image, len(chosen), axis=0), layout_of(base, TEXT_FLOW_COT))


def test_the_vision_tower_records_no_graph_under_lora(base: Path) -> None:
    model = adapted_model(base)
    batch = batch_of(base, BASELINE, sequences(base, BASELINE, [False]))
    assert not VisionTower(model.model.visual, SMALL.image_size)(batch.images).requires_grad
