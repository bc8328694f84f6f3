"""Reasoning made wrong on purpose: whose it is, how far boxes move, and that it is drawn from content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Corruption
from configs.phases import PhaseSpec
from data_pipeline.contract import BoundingBox, Sample
from tests.helpers.tiny_adapter import ACTION, BASELINE, FLOW, TEXT, TEXT_FLOW_COT
from tests.helpers.training_study import step_reasoning, write_study
from training.corruption import BOX_NOISE, corrupted, noisy_boxes
from training.dataset import TrainingData
from training.train_inputs import load_data

SHUFFLED = PhaseSpec("shuffled", (replace(TEXT, corrupt=Corruption.SHUFFLED), FLOW, ACTION))
SHUFFLED_FLOW = PhaseSpec("shuffled_flow", (TEXT, replace(FLOW, corrupt=Corruption.SHUFFLED), ACTION))
NOISY = PhaseSpec("noisy", (replace(TEXT, corrupt=Corruption.NOISY_BOXES), ACTION))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    from data_pipeline.action_stats import ActionStatistics

    study = write_study(tmp_path_factory.mktemp("corruption"), demos=3)
    statistics = ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")
    return load_data(study.train_slice(TEXT_FLOW_COT), study.context("corruption"), statistics)[0]


def drawn(data: TrainingData, number: int, phase: PhaseSpec, epoch: int = 0) -> Sample:
    return corrupted(data.sample(number), phase, lambda rng: data.elsewhere(number, rng), seed=42, epoch=epoch)


def test_a_phase_without_corruption_is_left_alone(data: TrainingData) -> None:
    sample = data.sample(3)
    for phase in (BASELINE, TEXT_FLOW_COT):
        assert corrupted(sample, phase, lambda _: pytest.fail("nothing to draw"), 42, 0) is sample


def test_elsewhere_is_every_sample_of_every_other_episode(data: TrainingData) -> None:
    for number in (0, len(data) // 2, len(data) - 1):
        own = data.where(number)[0]
        rng = np.random.default_rng(0)
        found = {(s.episode, s.step) for s in (data.elsewhere(number, rng) for _ in range(60 * len(data)))}
        assert found == {data.where(n) for n in range(len(data)) if data.where(n)[0] != own}


def test_shuffled_reasoning_is_another_demonstrations_and_new_in_every_epoch(data: TrainingData) -> None:
    true, first, second = data.sample(5), drawn(data, 5, SHUFFLED), drawn(data, 5, SHUFFLED, epoch=1)
    everyones = [data.sample(n).parts["reasoning"] for n in range(len(data)) if data.where(n)[0] != true.episode]
    assert first.parts["reasoning"] in everyones
    assert all(first.parts[name] is not None for name in ("action", "flow"))
    assert np.array_equal(first.parts["action"], true.parts["action"])
    assert np.array_equal(first.parts["flow"], true.parts["flow"])
    assert len({drawn(data, 5, SHUFFLED, epoch).parts["reasoning"].subtask_reasoning for epoch in range(20)}) > 3
    assert drawn(data, 5, SHUFFLED, epoch=1).parts["reasoning"] == second.parts["reasoning"]


def test_shuffled_flow_leaves_the_text_alone(data: TrainingData) -> None:
    wrong = [drawn(data, n, SHUFFLED_FLOW).parts["flow"] for n in range(len(data))]
    assert [drawn(data, n, SHUFFLED_FLOW).parts["reasoning"] for n in range(8)] == [
        data.sample(n).parts["reasoning"] for n in range(8)
    ]
    true = [data.sample(n).parts["flow"] for n in range(len(data))]
    assert not any(a is not None and b is not None and np.array_equal(a, b) for a, b in zip(true, wrong, strict=True))


def test_boxes_move_as_far_as_said_and_stay_boxes() -> None:
    middle = replace(step_reasoning("x", 0), visible_objects=(BoundingBox("soup", 60, 60, 190, 190),) * 500)
    boxes = noisy_boxes(middle, np.random.default_rng(0)).visible_objects
    moved = np.array([[b.x0 - 60, b.y0 - 60, b.x1 - 190, b.y1 - 190] for b in boxes])
    assert abs(moved.std() - BOX_NOISE) < 1
    assert abs(moved.mean()) < 1.5
    corner = replace(middle, visible_objects=(BoundingBox("soup", 0, 0, 3, 255),) * 500)
    for box in noisy_boxes(corner, np.random.default_rng(0)).visible_objects:
        assert 0 <= box.x0 <= box.x1 <= 255
        assert 0 <= box.y0 <= box.y1 <= 255
        assert box.name == "soup"


def test_noise_changes_nothing_but_boxes_and_is_drawn_from_content(data: TrainingData) -> None:
    true, wrong = data.sample(4), drawn(data, 4, NOISY)
    reasoning = wrong.parts["reasoning"]
    assert reasoning.visible_objects != true.parts["reasoning"].visible_objects
    assert replace(reasoning, visible_objects=true.parts["reasoning"].visible_objects) == true.parts["reasoning"]
    assert drawn(data, 4, NOISY).parts["reasoning"] == reasoning
    assert drawn(data, 4, NOISY, epoch=1).parts["reasoning"] != reasoning


def test_one_demonstration_has_nothing_to_shuffle_with(data: TrainingData) -> None:
    alone = replace(data, episodes=data.episodes[:1], owner=data.owner[: len(data.episodes[0].actions)])
    with pytest.raises(ConfigError, match="at least two training demonstrations"):
        drawn(alone, 0, SHUFFLED)
