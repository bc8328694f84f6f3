"""What is computed at the targets alone is what the whole forward pass gives there, gradients too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.phases import PhaseSpec
from tests.helpers.tiny_adapter import BASELINE, TEXT_COT
from tests.training.test_layout import layout_of
from tests.training.test_loss import adapted_model
from training.dataset import TrainingData
from training.layout import IGNORE
from training.network import FEW, Network
from training.sampling import SamplingPlan, StepInputs


@pytest.mark.parametrize("phase", [BASELINE, TEXT_COT])
def test_the_targets_alone_give_what_the_whole_gives(base: Path, data: TrainingData, phase: PhaseSpec) -> None:
    """Few targets in rows of unequal length, and many, where nothing is gathered."""
    batch = StepInputs(data, layout_of(base, phase), SamplingPlan(0, 6, 1, 0.0), 1)[0].batches[0]
    asked = torch.nn.functional.pad(batch.labels[:, 1:] != IGNORE, (0, 1))
    counts = asked.sum(1)
    assert (counts.max() <= FEW * asked.shape[1]) == (phase is BASELINE)
    assert counts.min() < counts.max()
    model = adapted_model(base)
    network, found = Network(model), []
    for hidden in (network.hidden(batch)[asked], network.hidden_at(batch, asked)):
        model.zero_grad()
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        found.append((hidden, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-4)
