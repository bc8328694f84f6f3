"""Dropout from sixteen random bits per entry."""

from __future__ import annotations

import torch
from torch import nn

from training.quick_dropout import QuickDropout, quicken_dropout


def test_it_drops_what_it_should_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = QuickDropout(0.05)(x)
    dropped = float((y == 0).float().mean())
    assert abs(dropped - 0.05) < 4 * (0.05 * 0.95 / x.numel()) ** 0.5 + 2**-16
    assert abs(float(y.mean()) - 1) < 1e-3
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    columns = (y == 0).float().mean(0)
    assert columns.min() > 0.02
    assert columns.max() < 0.09  # no entry of four is drawn another way


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    layer, x = QuickDropout(0.3), torch.ones(7, 5)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(layer(x))
    assert torch.equal(*found)
    assert not torch.equal(found[0], layer(x))
    assert layer.eval()(x) is x


def test_every_dropout_of_a_model_is_replaced_but_those_of_probability_zero() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"a": nn.Dropout(0.5), "b": nn.Dropout(0.0)}))
    quicken_dropout(model)
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(QuickDropout) == 1
    assert kinds.count(nn.Dropout) == 1
