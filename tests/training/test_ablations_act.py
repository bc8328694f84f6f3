"""Each ablation of flow acts on what a step trains on, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from configs.choices import Role
from configs.phases import PhaseSpec
from data_pipeline.contract import STATIC_CODE
from experiment.compose import compose, find_phase
from tests.training.test_layout import layout_of
from training.batch import Batch
from training.dataset import TrainingData
from training.layout import ROLES, role_weights
from training.sampling import SamplingPlan, StepInputs

PLAN = SamplingPlan(seed=3, batch_size=16, accumulation=1, reasoning_dropout_prob=0.0)


def phase(name: str, *overrides: str) -> PhaseSpec:
    return compose(find_phase(name), ["preset=tiny", *overrides]).phase


def batch_of(base: Path, data: TrainingData, spec: PhaseSpec) -> Batch:
    (batch,) = StepInputs(data, layout_of(base, spec), PLAN, 1)[0].batches
    return batch


def of_role(batch: Batch, role: Role) -> list[int]:
    return batch.input_ids[batch.role == ROLES.index(role)].tolist()


def test_flow_alone_has_the_same_flow_and_no_words(base: Path, data: TrainingData) -> None:
    """Without flow near the end there is nothing to think: those samples are cut off as a batch of their own."""
    spec = phase("flow_cot")
    whole = batch_of(base, data, phase("text_flow_cot"))
    alone = StepInputs(data, layout_of(base, spec), PLAN, 1)[0].batches
    first = layout_of(base, spec).vocabulary.flow_start
    codes = [i for b in alone for i in of_role(b, Role.FLOW) if i >= first]
    assert codes == [i for i in of_role(whole, Role.FLOW) if i >= first] != []
    assert of_role(whole, Role.TEXT)
    assert not [i for b in alone for i in of_role(b, Role.TEXT)]
    assert sorted(i for b in alone for i in of_role(b, Role.ACTION)) == sorted(of_role(whole, Role.ACTION))


def test_shuffled_flow_is_other_flow_in_the_same_places(base: Path, data: TrainingData) -> None:
    whole, wrong = (batch_of(base, data, phase(name)) for name in ("text_flow_cot", "text_flow_cot_shuffled_flow"))
    flow = whole.role == ROLES.index(Role.FLOW)
    assert torch.equal(whole.role, wrong.role)
    assert torch.equal(whole.input_ids[~flow], wrong.input_ids[~flow])
    assert (whole.input_ids[flow] != wrong.input_ids[flow]).float().mean() > 0.5


def test_half_weights_halve_the_reasoning_alone(base: Path, data: TrainingData) -> None:
    whole, half = phase("text_flow_cot"), phase("text_flow_cot_half_weights")
    one, other = batch_of(base, data, whole), batch_of(base, data, half)
    assert all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("input_ids", "labels", "loss_weights")
    )
    weights, halved = role_weights(whole), role_weights(half)
    assert halved == {role: w if role is Role.ACTION else w / 2 for role, w in weights.items()}


def test_the_weight_of_flow_and_of_its_static_code_are_set_apart(base: Path, data: TrainingData) -> None:
    text, flow, action = phase("text_flow_cot", "reasoning_dropout.cot_loss_weight=0.3").segments
    assert (text.loss_weight, flow.loss_weight, action.loss_weight) == (0.3, 0.3, 1.0)
    apart = PhaseSpec("apart", (text, replace(flow, loss_weight=0.1, static_weight=0.0), action))
    assert role_weights(apart) == {Role.TEXT: 0.3, Role.FLOW: 0.1, Role.ACTION: 1.0}
    one, other = batch_of(base, data, phase("text_flow_cot")), batch_of(base, data, apart)
    static = one.input_ids == layout_of(base, apart).vocabulary.flow_start + STATIC_CODE
    assert static.any()
    assert set(one.loss_weights[static].tolist()) == {flow.static_weight}
    assert set(other.loss_weights[static].tolist()) == {0.0}
    assert torch.equal(one.loss_weights[~static], other.loss_weights[~static])


def test_flow_twice_and_flow_first_are_data(base: Path, data: TrainingData) -> None:
    text, flow, action = phase("text_flow_cot").segments
    once, twice = (PhaseSpec(str(len(s)), s) for s in ((flow, text, action), (flow, text, flow, action)))
    one, two = batch_of(base, data, once), batch_of(base, data, twice)
    first = layout_of(base, once).vocabulary.flow_start
    count = [sum(i >= first for i in of_role(b, Role.FLOW)) for b in (one, two)]
    assert 2 * count[0] == count[1] > 0
    assert of_role(one, Role.ACTION) == of_role(two, Role.ACTION)
