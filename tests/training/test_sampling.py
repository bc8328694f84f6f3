"""The order in which samples come, and what a step is made of."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from configs.choices import Role
from tests.helpers.tiny_adapter import FLOW_CODES, TEXT_COT, TEXT_FLOW_COT
from tests.training.test_layout import layout_of
from training.dataset import TrainingData
from training.layout import IGNORE
from training.sampling import SamplingPlan, StepInputs, micro_batches, numbers_of_step


def test_every_epoch_is_a_permutation() -> None:
    drawn = [pair for step in range(25) for pair in numbers_of_step(step, 7, 4, 50)]
    for epoch in (0, 1):
        assert sorted(n for e, n in drawn if e == epoch) == list(range(50))
    assert [n for e, n in drawn if e == 0] != [n for e, n in drawn if e == 1]
    assert numbers_of_step(3, 7, 4, 50) == drawn[12:16]


def test_a_step_is_the_same_whenever_it_is_made(base: Path, data: TrainingData) -> None:
    layout = layout_of(base, TEXT_FLOW_COT)
    plan = SamplingPlan(3, 4, 2, 0.5, shift_px=3)
    forward = [StepInputs(data, layout, plan, 9)[step] for step in (0, 5, 8)]
    backward = [StepInputs(data, layout, plan, 9)[step] for step in (8, 5, 0)][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.totals == other.totals
        for a, b in zip(one.batches, other.batches, strict=True):
            assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_samples_with_and_without_reasoning_are_batched_apart() -> None:
    reasons = [True, False, True, True, False, True]
    plan = SamplingPlan(seed=0, batch_size=3, accumulation=2, reasoning_dropout_prob=0.5)
    groups = micro_batches(reasons, plan)
    assert groups == [[1, 4], [0, 2, 3], [5]]
    assert sorted(i for g in groups for i in g) == list(range(6))


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_a_global_batch_evenly_and_each_kind_of_sample_too(processes: int) -> None:
    reasons = [bool(i % 3) for i in range(24)]
    plans = [SamplingPlan(0, 4, 1, 0.5, process=p, processes=processes) for p in range(processes)]
    shares = [[i for group in micro_batches(reasons, plan) for i in group] for plan in plans]
    assert sorted(i for share in shares for i in share) == list(range(24))
    reasoning = [sum(reasons[i] for i in share) for share in shares]
    assert max(reasoning) - min(reasoning) <= 1
    assert len({len(share) for share in shares}) == 1


def test_totals_are_those_of_the_whole_global_batch(base: Path, data: TrainingData) -> None:
    inputs = StepInputs(data, layout_of(base, TEXT_COT), SamplingPlan(3, 4, 2, 0.5), 1)[0]
    supervised = sum(int((b.labels != IGNORE).sum()) for b in inputs.batches)
    assert sum(inputs.totals.values()) == supervised
    assert set(inputs.totals) == {Role.TEXT, Role.ACTION}
    assert sum(len(b.input_ids) for b in inputs.batches) == 8


def test_dropout_one_never_reasons_and_zero_always(base: Path, data: TrainingData) -> None:
    layout = layout_of(base, TEXT_FLOW_COT)
    assert set(StepInputs(data, layout, SamplingPlan(3, 8, 1, 1.0), 1)[0].totals) == {Role.ACTION}
    everything = StepInputs(data, layout, SamplingPlan(3, 8, 1, 0.0), 1)[0]
    assert len(everything.batches) == 1
    used = everything.batches[0].input_ids[everything.batches[0].role == list(Role).index(Role.FLOW)]
    codes = used[used >= layout.vocabulary.flow_start]
    assert int(codes.max()) < layout.vocabulary.flow_start + FLOW_CODES
