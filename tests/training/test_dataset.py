"""Samples, batches, and the order in which they come."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from configs.choices import Role
from configs.schema import ConfigError
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sidecar import load_annotations, load_flow_tokens
from tests.helpers.tiny_adapter import BASELINE, FLOW_CODES, SMALL, TEXT_COT, TEXT_FLOW_COT
from tests.helpers.training_study import Study
from tests.training.test_layout import layout_of
from training import dataset
from training.dataset import (
    SamplingPlan,
    StepInputs,
    TrainingData,
    action_chunk,
    load_training_data,
    micro_batches,
    numbers_of_step,
    patchify,
    shift_image,
)
from training.lora_model import load_base


@pytest.fixture(scope="module")
def data(study: Study) -> TrainingData:
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")
    return load_training_data(
        [source.open(e) for e in source.list()],
        {study.subset: statistics},
        horizon=8,
        image_size=SMALL.image_size,
        overflow=study.folder / "frames.npy",
        annotations=load_annotations(study.folder / "annotations.json"),
        flow=load_flow_tokens(study.folder / "flow_tokens.json"),
    )


def test_a_chunk_repeats_the_last_action_past_the_end() -> None:
    actions = np.arange(14, dtype=np.float32).reshape(2, 7)
    assert (action_chunk(actions, 0, 3) == actions[[0, 1, 1]]).all()
    assert (action_chunk(actions, 1, 3) == actions[[1, 1, 1]]).all()


def test_samples_offer_every_part_and_no_flow_near_the_end(data: TrainingData) -> None:
    last = data.episodes[0]
    steps = len(last.actions)
    offered = [data.sample(number).parts for number in range(steps)]
    assert [p["flow"] is None for p in offered] == [min(8, steps - 1 - t) < 4 for t in range(steps)]
    assert all(p["action"].shape == (8, 7) and p["action"].dtype == np.float32 for p in offered)
    assert data.where(steps + 2) == (data.episodes[1].id, 2)


def test_frames_in_a_file_are_the_same_as_in_memory(
    study: Study, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY_BYTES", 0)
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = {study.subset: ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")}
    episodes = [source.open(e) for e in source.list()]
    stored = load_training_data(episodes, statistics, 8, SMALL.image_size, tmp_path / "frames.npy")
    assert isinstance(stored.frames, np.memmap)
    assert (stored.frames == data.frames).all()


def test_a_sidecar_that_does_not_fit_is_named(study: Study, tmp_path: Path) -> None:
    source = Hdf5Source(study.inputs["regenerate"], study.subset)
    statistics = {study.subset: ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")}
    episode = source.open(source.list()[0])
    annotations = load_annotations(study.folder / "annotations.json")
    with pytest.raises(ConfigError, match=f"no entry for {episode.id}"):
        load_training_data([episode], statistics, 8, 56, tmp_path / "f", annotations={})
    short = {episode.id: replace(annotations[episode.id], steps=annotations[episode.id].steps[:3])}
    with pytest.raises(ConfigError, match="have 3 steps"):
        load_training_data([episode], statistics, 8, 56, tmp_path / "f", annotations=short)


def test_patches_equal_the_processors(base: Path) -> None:
    """The published processor on an image of the policy's size, which it does not resize."""
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    images = np.random.default_rng(0).integers(0, 256, (3, SMALL.image_size, SMALL.image_size, 3), dtype=np.uint8)
    theirs = processor.image_processor(
        images=[torch.from_numpy(i).permute(2, 0, 1) for i in images], return_tensors="pt"
    )
    assert torch.equal(theirs["image_grid_thw"], dataset.image_grid(3, SMALL.image_size))
    ours = patchify(torch.from_numpy(images))
    assert ours.shape == theirs["pixel_values"].shape
    assert torch.equal(ours, theirs["pixel_values"])


def test_without_token_types_the_model_would_place_image_tokens_in_a_row(
    study: Study, base: Path, data: TrainingData
) -> None:
    """Why the batch must carry mm_token_type_ids: positions change silently without them."""
    batch = StepInputs(data, layout_of(base, BASELINE), SamplingPlan(0, 2, 1, 1.0), 1)[0].batches[0]
    assert int(batch.mm_token_type_ids.sum()) == 2 * (SMALL.image_size // 28) ** 2
    model, _ = load_base(base, torch.float32)
    inputs = {f.name: getattr(batch, f.name) for f in fields(batch)[:3]} | {
        "pixel_values": batch.pixel_values,
        "image_grid_thw": batch.image_grid_thw,
    }
    with torch.no_grad():
        right = model.model(**inputs).last_hidden_state
        model.model.rope_deltas = None
        wrong = model.model(
            **(inputs | {"mm_token_type_ids": torch.zeros_like(batch.mm_token_type_ids)})
        ).last_hidden_state
    assert not torch.allclose(right, wrong, atol=1e-4)


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
    groups = micro_batches(reasons, 3)
    assert groups == [[1, 4], [0, 2, 3], [5]]
    assert sorted(i for g in groups for i in g) == list(range(6))


def test_totals_are_those_of_the_whole_global_batch(base: Path, data: TrainingData) -> None:
    inputs = StepInputs(data, layout_of(base, TEXT_COT), SamplingPlan(3, 4, 2, 0.5), 1)[0]
    supervised = sum(int((b.labels != dataset.IGNORE).sum()) for b in inputs.batches)
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


def test_a_shift_moves_the_picture_and_repeats_the_edge() -> None:
    image = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    assert shift_image(image, 0, np.random.default_rng(0)) is image
    moved = {shift_image(image, 1, np.random.default_rng(s)).tobytes() for s in range(60)}
    assert len(moved) == 9
    assert image.tobytes() in moved
