"""What a step of the tiny base is made of."""

from __future__ import annotations

from pathlib import Path

from configs.choices import Role
from configs.model import BaseConfig
from tests.training.test_layout import layout_of
from training.base_trainer import GREY, LANGUAGE, BaseInputs
from training.dataset import TrainingData
from training.layout import IGNORE, ROLES

SETTINGS = BaseConfig(steps=8, batch_size=4, language_batch=2, language_every=4, shift_px=0)


def test_every_few_steps_thoughts_are_written_before_grey_and_acted_after_before_the_scene(
    base: Path, data: TrainingData
) -> None:
    inputs = BaseInputs(data, layout_of(base, LANGUAGE), SETTINGS)
    assert [len(inputs[step].batches) for step in range(6)] == [2, 1, 1, 1, 2, 1]
    thoughts = inputs[4].batches[1]
    grey = (thoughts.images == GREY).flatten(1).all(1)
    assert grey.tolist() == [True, True, False, False]
    supervised = [
        set(roles[labels != IGNORE].tolist()) for roles, labels in zip(thoughts.role, thoughts.labels, strict=True)
    ]
    text, action = ROLES.index(Role.TEXT), ROLES.index(Role.ACTION)
    assert supervised == [{text}, {text}, {action}, {action}]
    lengths = thoughts.real.sum(1)
    assert (lengths[2:] > lengths[:2]).all()  # the same thoughts, and an action behind each


def test_totals_count_every_target_of_the_step(base: Path, data: TrainingData) -> None:
    step = BaseInputs(data, layout_of(base, LANGUAGE), SETTINGS)[0]
    for role in (Role.TEXT, Role.ACTION):
        number = ROLES.index(role)
        counted = sum(float(batch.loss_weights[batch.role == number].sum()) for batch in step.batches)
        assert step.totals[role] == counted > 0
