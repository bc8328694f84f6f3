"""tune=full: all of the language model trains, and the checkpoint is a model folder that needs no base."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from configs.building import canonical
from configs.checks import ConfigError
from configs.choices import Mode, Tune, Weights
from configs.data import EnvConfig
from configs.model import LoraConfig, OptimizerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from evaluation.policy import load_subject
from evaluation.policy_api import Observation
from experiment import compose
from experiment.training import run_train
from tests.helpers.tiny_adapter import CODES, CORPUS, FLOW_CODES, SMALL, TEXT_COT, TEXT_FLOW_COT
from tests.helpers.training_study import TRAINER, Study
from tests.training.test_lora_trainer import kill_at, outputs, rows
from training.loaded_policy import load_checkpoint
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base

FULL = {"tune": Tune.FULL, "optimizer": OptimizerConfig(learning_rate=5e-3, warmup_steps=2)}


@pytest.fixture(scope="module")
def trained(study: Study) -> Path:
    return study.train("in_full", TEXT_FLOW_COT, steps=5, **FULL)


def test_the_language_model_changes_and_the_vision_tower_does_not(study: Study, base: Path, trained: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (base, trained / "checkpoint-final"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # A key's bias moves every score of a query alike, and the softmax forgets it: rounding is all of its gradient.
    assert changed >= {n for n in before if n.startswith("model.") and "k_proj.bias" not in n}
    assert not [name for name in changed if name.startswith("visual.")]


def test_a_checkpoint_loads_with_plain_transformers_and_here_without_a_base(trained: Path) -> None:
    folder = trained / "checkpoint-final"
    assert not list(folder.glob("adapter_*.safetensors"))
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    loaded = load_checkpoint(folder, None, "cpu", torch.float32)
    assert loaded.card.weights is Weights.FULL
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert processor.tokenizer.convert_tokens_to_ids("<flow_0>") == loaded.layout.vocabulary.flow_start
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), loaded.model.parameters(), strict=True))


def test_it_acts_through_the_evaluations_own_loading(study: Study, trained: Path) -> None:
    wanted = EvaluateSlice(
        study.subset, (0,), (Mode.NO_THINK,), EvalConfig(num_trials=1), EnvConfig(), TRAINER, execute=4
    )
    subject = load_subject(wanted, trained, None)
    image = np.zeros((64, 64, 3), np.uint8)
    (decision,) = subject.policy.act([Observation(image, "push the plate", False, 0)])
    assert decision.actions.shape == (8, 7)
    assert subject.card["weights"] == "full"


def test_a_killed_run_resumes_bit_for_bit(study: Study, trained: Path) -> None:
    config = study.train_slice(TEXT_FLOW_COT, steps=5, **FULL)
    context = study.context("in_full_killed")
    for step in (1, 3):
        kill_at(step, run_train, config, context)
    run_train(config, context)
    assert outputs(context.work) == outputs(trained)


def test_it_learns(study: Study) -> None:
    work = study.train("in_full_learns", TEXT_COT, steps=12, reasoning_dropout_prob=0.0, **FULL)
    curve = [row["loss"] for row in rows(work)]
    assert np.mean(curve[-4:]) < 0.95 * np.mean(curve[:3])


def test_a_damaged_checkpoint_is_refused_by_name(study: Study, trained: Path, tmp_path: Path) -> None:
    card = json.loads((trained / "checkpoint-final" / "adapter_card.json").read_text())
    for path in (trained / "checkpoint-final").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_card.json").write_text(json.dumps(card | {"text_tokenizer": "0" * 64}))
    with pytest.raises(ConfigError, match=r"tokenizer\.json .* is not the one .* \(0000000000000000, on its card\)"):
        load_checkpoint(tmp_path, None, "cpu", torch.float32)


def test_the_setting_is_of_the_key_only_where_it_is_used(study: Study) -> None:
    plain = study.train_slice()
    assert "tune" not in canonical(plain)
    assert canonical(replace(plain, tune=Tune.FULL))["tune"] == "full"


def test_quantised_layers_do_not_train() -> None:
    with pytest.raises(ConfigError, match=r"tune=full with lora\.base_bits=4.*allowed: 16"):
        compose.compose(compose.find_phase("baseline"), ["preset=tiny", "tune=full", "lora.base_bits=4"])


def test_the_card_of_a_quantised_bases_adapter_says_so(study: Study, base: Path) -> None:
    work = study.train("bits_on_card", steps=1, lora=LoraConfig(rank=4, base_bits=4))
    card = json.loads((work / "checkpoint-final" / "adapter_card.json").read_text())
    assert card["base_bits"] == 4
    assert load_checkpoint(work / "checkpoint-final", base, "cpu", torch.float32).card.base_bits == 4
    plain = study.train("bits_not_on_card", steps=1)
    assert "base_bits" not in json.loads((plain / "checkpoint-final" / "adapter_card.json").read_text())


def test_a_base_without_action_tokens_gets_them_and_an_adapter_brings_them_along(
    study: Study, base: Path, tmp_path: Path
) -> None:
    """Plain Qwen2.5-VL: the rows of the new tokens train with the adapter; loading makes them again."""
    plain = tmp_path / "base" / "base"
    tokenizer = build_tokenizer([*CORPUS] * 4, SMALL.text_vocab, 0)
    save_base(plain, build_model(build_config(tokenizer, replace(SMALL, flow_rows=0)), 0), tokenizer, SMALL)
    shutil.copyfile(base / "action_tokenizer.json", plain / "action_tokenizer.json")
    context = replace(study.context("plain_qwen"), inputs={**study.inputs, "base": tmp_path / "base"})
    run_train(study.train_slice(TEXT_FLOW_COT), context)
    loaded = load_checkpoint(context.work / "checkpoint-final", plain, "cpu", torch.float32)
    first = len(tokenizer)
    assert loaded.layout.vocabulary.action_start == first
    assert loaded.layout.vocabulary.flow_start == first + CODES
    assert loaded.model.get_input_embeddings().num_embeddings == first + CODES + FLOW_CODES
    weights = load_file(context.work / "checkpoint-final" / "adapter_model.safetensors")
    assert [len(value) for name, value in weights.items() if "token" in name] == [CODES + FLOW_CODES]
