"""Figures of held-out steps: against the true loss, the policy's own decoding, and a run that does not notice them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from configs.model import ValidationConfig
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import EnvironmentProblem, EpisodeId
from data_pipeline.flow_tokens import (
    FLOW_TOKENS_JSON,
    FLOW_TOKENS_NPZ,
    load_flow_manifest,
    load_flow_tokens,
    save_flow_tokens,
)
from evaluation.free_running import FreeRunning
from evaluation.generation import Generator, Request, Written
from tests.evaluation.test_policy import generator
from tests.helpers.tiny_adapter import BASELINE, TEXT_FLOW_COT
from tests.helpers.training_study import Study, write_study
from training import gradient
from training.batch import Batch
from training.layout import inference_prefix, opening_ids
from training.loaded_policy import load_checkpoint
from training.lora_model import fit_embedding, load_base, load_tokenizer
from training.loss import TokenLosses
from training.train_inputs import load_data

OFTEN = ValidationConfig(every=2, samples=6)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("held_out"), demos=4)


def rows(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def figures(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("test_")}


@pytest.fixture(scope="module")
def trained(held_out: Study) -> Path:
    return held_out.train("often", TEXT_FLOW_COT, steps=3, validation=OFTEN)


def test_figures_stand_at_their_steps_and_after_the_last(trained: Path) -> None:
    assert [bool(figures(row)) for row in rows(trained)] == [False, True, True]
    conditions = ("none", "true", "generated", "shuffled_reasoning", "shuffled_flow")
    assert {f"test_action_loss_{name}" for name in conditions} <= rows(trained)[-1].keys()
    others = {"test_loss_text", "test_loss_flow", "test_flow_epe_px", "test_generated_flow_accuracy"}
    assert others <= rows(trained)[-1].keys()
    assert all(np.isfinite(value) for value in figures(rows(trained)[-1]).values())


def test_training_does_not_notice_them(held_out: Study, trained: Path) -> None:
    """The same adapter, the same losses, whether and however often it is measured."""
    without = held_out.train("never", TEXT_FLOW_COT, steps=3, validation=ValidationConfig(every=0))
    plain = [{k: v for k, v in row.items() if not k.startswith("test_")} for row in rows(trained)]
    assert rows(without) == plain
    name = "checkpoint-final/adapter_model.safetensors"
    assert (without / name).read_bytes() == (trained / name).read_bytes()


def test_a_phase_without_reasoning_has_one_condition(held_out: Study) -> None:
    work = held_out.train("baseline", BASELINE, steps=1, validation=OFTEN)
    assert figures(rows(work)[0]).keys() == {"test_action_loss_none", "test_action_error_none"}


def test_nothing_is_measured_where_nothing_is_held_out(study: Study) -> None:
    work = study.train("nothing_held_out", TEXT_FLOW_COT, steps=1, validation=OFTEN)
    assert not figures(rows(work)[0])
    assert "flow_epe_px" in rows(work)[0] or rows(work)[0]["loss_flow"] is None


def test_held_out_demonstrations_are_those_of_the_split_that_the_sidecars_know(held_out: Study, tmp_path: Path) -> None:
    statistics = ActionStatistics.load(held_out.inputs["stats"] / "dataset_statistics.json")
    config = held_out.train_slice(TEXT_FLOW_COT)
    split = json.loads((held_out.inputs["split"] / "split.json").read_text())
    data, test = load_data(config, held_out.context("load"), statistics)
    assert [str(e.id) for e in test.episodes] == split["test"]
    assert [str(e.id) for e in data.episodes] == split["train"]
    path = held_out.folder / FLOW_TOKENS_NPZ
    tokens = load_flow_tokens(path)
    del tokens[EpisodeId.parse(split["test"][0])]
    save_flow_tokens(tmp_path / FLOW_TOKENS_JSON, tokens, load_flow_manifest(path))
    fewer = replace(held_out.context("fewer"), inputs={**held_out.inputs, "tokens": tmp_path})
    assert [str(e.id) for e in load_data(config, fewer, statistics)[1].episodes] == split["test"][1:]


def test_short_memory_measures_the_same_in_smaller_pieces(
    held_out: Study, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that training has, and measuring lacks: the figures are the same, and so is the training."""
    asked: list[int] = []
    forward, generate = gradient.token_losses, Generator.generate

    def limited(count: int) -> None:
        asked.append(count)
        if count > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def losses(network: Any, batch: Batch) -> TokenLosses:
        if not network._model.training:
            limited(len(batch.input_ids))
        return forward(network, batch)

    def written(self: Generator, requests: Sequence[Request], *rest: Any, **named: Any) -> list[Written]:
        limited(len(requests))
        return generate(self, requests, *rest, **named)

    monkeypatch.setattr(gradient, "token_losses", losses)
    monkeypatch.setattr(Generator, "generate", written)
    work = held_out.train("short_of_memory", TEXT_FLOW_COT, steps=3, validation=OFTEN)
    assert max(asked) > 2
    assert [row | figures(other) for row, other in zip(rows(work), rows(trained), strict=True)] == rows(trained)
    for found, wanted in zip(rows(work), rows(trained), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_sample_that_cannot_be_measured_names_the_remedy(held_out: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*anything: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Generator, "generate", full)
    with pytest.raises(EnvironmentProblem, match=r"validation\.every=0"):
        held_out.train("no_room", BASELINE, steps=2, validation=OFTEN)


def test_what_it_writes_is_what_the_policy_writes(held_out: Study, trained: Path) -> None:
    """A merged copy of the model in training decodes as the saved adapter does, and the model stays as it was."""
    folder, base = trained / "checkpoint-final", held_out.inputs["base"] / "base"
    loaded = load_checkpoint(folder, base, "cpu", torch.float32)
    model, _ = load_base(base, torch.float32)
    tokenizer = load_tokenizer(folder)
    fit_embedding(model, len(tokenizer), 0)
    adapted = PeftModel.from_pretrained(model, str(folder))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    act = FreeRunning(adapted, tokenizer, loaded.action_tokenizer, loaded.layout)
    prompt = (*inference_prefix(loaded.layout, "pick up the soup"), *opening_ids(loaded.layout))
    images = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
    said = act([prompt] * 3, images, 12, 2)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    theirs = generator(loaded, fixed_shapes=False).generate(
        [Request(prompt, image) for image in images], len(prompt), think=True, max_new_tokens=12
    )
    assert [(s.text, s.codes) for s in said] == [(w.text, w.codes) for w in theirs]
