"""`nora-ecot merge`: what is written says what the adapter says on its base, or nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from configs.choices import Mode, Subset, Weights
from configs.data import EnvConfig
from configs.model import LoraConfig, OptimizerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from evaluation.policy import load_subject
from evaluation.policy_api import Observation
from experiment.cli import main
from tests.helpers.tiny_adapter import TEXT_FLOW_COT
from tests.helpers.training_study import TRAINER, Study, write_study
from training import whole_model
from training.loaded_policy import load_checkpoint


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("merging"))


def trained(study: Study, name: str, bits: int = 16) -> Path:
    """An adapter that is far from doing nothing."""
    lora = LoraConfig(rank=4, alpha=32, dropout=0.0, base_bits=bits)
    schedule = OptimizerConfig(learning_rate=2e-2, warmup_steps=1)
    return study.train(name, TEXT_FLOW_COT, steps=8, lora=lora, optimizer=schedule) / "checkpoint-final"


@pytest.fixture(scope="module")
def adapter(study: Study) -> Path:
    return trained(study, "adapter")


def merge(study: Study, adapter: Path, target: Path, *more: str) -> int:
    places = ["--lora_path", str(adapter), "--target", str(target), "--base", str(study.inputs["base"] / "base")]
    data = ["--data", str(study.inputs["regenerate"]), "--output_dir", str(study.folder / "outputs")]
    return main("merge", [*places, *data, "--steps", "3", *more, "preset=tiny", "trainer.device=cpu"])


def decide(checkpoint: Path, base: Path | None) -> np.ndarray:
    wanted = EvaluateSlice(
        Subset.OBJECT,
        (0,),
        (Mode.NO_THINK,),
        EvalConfig(num_trials=1),
        EnvConfig(),
        TRAINER,
        execute=4,
    )
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (decision,) = load_subject(wanted, checkpoint, base).policy.act([Observation(image, "push the plate", False, 0)])
    return decision.actions


def test_a_merged_model_is_whole_and_does_what_the_adapter_does(
    study: Study, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "merged"
    assert merge(study, adapter, target) == 0
    said = capsys.readouterr().out
    found = re.search(r"3 steps, (\d+) of (\d+) greedy action tokens equal, largest difference of a logit (\S+) ", said)
    assert found is not None
    assert found[1] == found[2]
    assert 0 < float(found[3]) < 1e-3
    assert f"--model_type text_flow_cot --libero_subset object --lora_path {target}" in said
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(target, local_files_only=True)
    AutoProcessor.from_pretrained(target, local_files_only=True)
    ours = load_checkpoint(target, None, "cpu", torch.float32)
    beside = load_checkpoint(adapter, study.inputs["base"] / "base", "cpu", torch.float32)
    assert ours.card.weights is Weights.MERGED
    for model in (plain, ours.model):
        theirs = dict(beside.model.named_parameters())
        assert all(torch.equal(value, theirs[name]) for name, value in model.named_parameters())
    for name in ("dataset_statistics.json", "action_tokenizer.json", "tokenizer.json"):
        assert (target / name).read_bytes() == (adapter / name).read_bytes()
    assert np.array_equal(decide(target, None), decide(adapter, study.inputs["base"]))
    assert merge(study, target, tmp_path / "again") == 2
    assert "whole model already (merged)" in capsys.readouterr().err
    assert merge(study, adapter, target) == 2
    assert f"--target {target} exists" in capsys.readouterr().err


def test_a_merge_that_changes_what_is_said_is_not_written(
    study: Study, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = whole_model.save_whole

    def worse(folder: Path, model: torch.nn.Module, *rest: object) -> None:
        with torch.no_grad():
            model.get_parameter("model.language_model.layers.0.mlp.down_proj.weight").mul_(1.01)
        plain(folder, model, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(whole_model, "save_whole", worse)
    assert merge(study, adapter, tmp_path / "merged") == 1
    assert "not written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_told_and_held_to_its_own_tolerance(
    study: Study, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(study, adapter, tmp_path / "merged", "--dtype", "bfloat16") == 0
    said = capsys.readouterr().out
    found = re.search(r"largest difference of a logit (\S+) \(allowed 0\.5\)", said)
    assert found is not None
    assert 1e-3 < float(found[1]) < 0.5
    assert {v.dtype for v in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_quantised_bases_adapter_is_merged_into_the_base_as_published(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(study, trained(study, "bits4", 4), tmp_path / "merged") == 0
    said = capsys.readouterr().out
    largest = [float(text) for text in re.findall(r"largest difference of a logit (\S+)", said)]
    assert "beside the 4-bit base it was trained on:" in said
    assert largest[0] < 1e-3 < largest[1]
    card = load_checkpoint(tmp_path / "merged", None, "cpu", torch.float32).card
    assert (card.base_bits, card.weights) == (4, Weights.MERGED)


def test_without_demonstrations_of_its_own_they_are_asked_for(
    study: Study, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(study.inputs["base"] / "base")
    typed = ["--lora_path", str(adapter), "--target", str(tmp_path / "x"), "--base", base, "preset=tiny"]
    assert main("merge", [*typed, "--output_dir", str(tmp_path)]) == 2
    assert "give demonstrations as --data FOLDER" in capsys.readouterr().err
