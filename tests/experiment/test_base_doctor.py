"""`nora-ecot doctor --base`: what it measures, and that it fails where something is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from experiment.cli import main
from tests.helpers.tiny_adapter import SMALL, TinyAdapter, fitted_actions, write_tiny_adapter, write_tiny_base
from training.base_folder import folder_digest
from training.lora_model import load_tokenizer

SIZE = [f"model.image_size={SMALL.image_size}", "model.system_prompt=false"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> TinyAdapter:
    return write_tiny_adapter(tmp_path_factory.mktemp("doctor"))


def doctor(base: Path | str, *more: str) -> int:
    return main("doctor", ["--base", *more, "preset=tiny", f"model.base={base}", *SIZE])


def changed(base: Path, folder: Path) -> Path:
    return shutil.copytree(base, folder / "changed")


def test_the_shipped_base_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("doctor", ["--base", "preset=tiny"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines()] == [
        ["ok", name] for name in ("base", "weights", "head", "vocabulary", "actions", "decode")
    ]
    assert "one with the embedding; config.json wants it one with the embedding" in said
    assert re.search(r"256 action tokens, 256 codes .* ids (\d+) to \d+ without a gap", said)
    assert re.search(r"a grey image: \d+ tokens .* 8 x 7 actions .* and the end", said)


def test_an_adapter_on_its_base_and_on_another(
    adapter: TinyAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(adapter.base, "--lora_path", str(adapter.checkpoint)) == 0
    assert "checkpoint   baseline/object, adapter of 0 steps, fits the base" in capsys.readouterr().out
    other = write_tiny_base(tmp_path / "other", seed=5)
    assert doctor(other, "--lora_path", str(adapter.checkpoint)) == 1
    said = capsys.readouterr().out
    assert folder_digest(other)[:16] in said
    assert folder_digest(adapter.base)[:16] in said


def test_an_action_tokenizer_with_another_number_of_codes(
    adapter: TinyAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for codes in (300, 200):
        base = changed(adapter.base, tmp_path / str(codes))
        fitted_actions(codes=codes).save(base / "action_tokenizer.json")
        assert doctor(base) == 1
        assert f"WRONG   actions      256 action tokens, {codes} codes" in capsys.readouterr().out


def test_a_weight_that_is_missing(adapter: TinyAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = changed(adapter.base, tmp_path)
    weights = load_file(base / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert doctor(base) == 1
    assert "missing model.language_model.norm.weight" in capsys.readouterr().out


def test_more_tokens_than_rows(adapter: TinyAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = changed(adapter.base, tmp_path)
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([f"<more_{n}>" for n in range(SMALL.flow_rows + 1)])
    tokenizer.save_pretrained(base)
    assert doctor(base) == 1
    rows = json.loads((base / "config.json").read_text())["text_config"]["vocab_size"]
    assert f"WRONG   vocabulary   {rows + 1} tokens, {rows} rows" in capsys.readouterr().out


def test_what_is_not_there_ends_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor("nobody/nora") == 78
    assert "hf download nobody/nora" in capsys.readouterr().err
    assert doctor("scratch") == 2
