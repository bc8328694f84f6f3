"""The base folder, the adapter on it, and what a checkpoint is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from configs.checks import ConfigError
from configs.choices import Subset
from configs.model import LoraConfig, ModelConfig
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import EnvironmentProblem, digest
from tests.helpers.tiny_adapter import (
    CORPUS,
    FLOW_CODES,
    SMALL,
    TEXT_FLOW_COT,
    TinyAdapter,
    fitted_actions,
    wide_statistics,
    write_tiny_adapter,
    write_tiny_base,
)
from training.base_folder import folder_digest, locate_base
from training.card import load_card
from training.loaded_policy import load_checkpoint
from training.lora_model import TARGETS, add_flow_tokens, attach_lora, load_base
from training.tiny_backbone import build_config, build_model, build_tokenizer

PRESET = ModelConfig(base="tiny", image_size=112, system_prompt=False, flow_rows=32)
FLOAT = torch.float32


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> TinyAdapter:
    return write_tiny_adapter(tmp_path_factory.mktemp("adapter"), TEXT_FLOW_COT)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ------------------------------------------------------------------ the base


def test_the_tiny_preset_has_about_a_million_parameters() -> None:
    tokenizer = build_tokenizer(CORPUS * 4, PRESET.text_vocab, 256)
    model = build_model(build_config(tokenizer, PRESET), 0)
    assert 1_100_000 < parameters(model) < 1_400_000
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) + 32


def test_a_base_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    first, second = (write_tiny_base(tmp_path / name) for name in ("a", "b"))
    assert files(first) == files(second)
    assert files(write_tiny_base(tmp_path / "c", seed=1))["model.safetensors"] != files(first)["model.safetensors"]


def test_a_base_is_an_ordinary_model_folder(base: Path) -> None:
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, local_files_only=True)
    ids = processor.tokenizer("pick up the soup<robot_action_3><|im_end|>")["input_ids"]
    assert processor.tokenizer.decode(ids) == "pick up the soup<robot_action_3><|im_end|>"
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")


def test_bases_are_named_by_content_not_by_place(base: Path, tmp_path: Path) -> None:
    found = locate_base("tiny", folder=base)
    assert found.name == f"tiny:{folder_digest(base)[:16]}"
    assert locate_base(str(base)).digest == found.digest
    with pytest.raises(ConfigError, match="made by a stage"):
        locate_base("tiny")
    with pytest.raises(EnvironmentProblem, match=r"no config\.json"):
        locate_base(str(tmp_path))


def test_an_unreachable_base_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match="hf download nobody/nora"):
        locate_base("nobody/nora")


# ------------------------------------------------------------------ the adapter


def test_lora_stands_on_every_linear_layer_of_the_language_model_and_nowhere_else(base: Path) -> None:
    model, _ = load_base(base, FLOAT)
    adapted = attach_lora(model, LoraConfig(rank=4), "tiny:x", [], 0)
    names = {n.split(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(names) == SMALL.layers * 7
    assert all("language_model.layers" in n for n in names)
    # The trap: a suffix list would also have hit the vision tower.
    assert any(n.endswith("mlp.gate_proj") for n, _ in model.named_modules() if ".visual." in n)
    assert "language_model" in TARGETS


def test_flow_tokens_take_the_spare_rows_and_train_alone(base: Path) -> None:
    model, tokenizer = load_base(base, FLOAT)
    rows = model.get_input_embeddings().num_embeddings
    ids = add_flow_tokens(model, tokenizer, FLOW_CODES, 0)
    assert ids == list(range(len(tokenizer) - FLOW_CODES, len(tokenizer)))
    assert model.get_input_embeddings().num_embeddings == rows
    adapted = attach_lora(model, LoraConfig(rank=4), "tiny:x", ids, 0)
    sizes = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad and "lora_" not in n}
    assert list(sizes.values()) == [FLOW_CODES * SMALL.hidden]  # tied: once, for embedding and head
    assert model.lm_head.weight is model.get_input_embeddings().weight or "trainable_tokens" in next(iter(sizes))


def test_more_flow_tokens_than_spare_rows_grow_the_embedding_the_same_way_twice(base: Path) -> None:
    grown = []
    for _ in range(2):
        model, tokenizer = load_base(base, FLOAT)
        add_flow_tokens(model, tokenizer, SMALL.flow_rows + 5, seed=3)
        grown.append(model.get_input_embeddings().weight.detach().clone())
        assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(grown[0]) == len(tokenizer)
    assert torch.equal(grown[0], grown[1])


def test_untied_embeddings_train_rows_in_both_matrices() -> None:
    tokenizer = build_tokenizer(CORPUS * 4, SMALL.text_vocab, 256)
    config = build_config(tokenizer, SMALL)
    config.tie_word_embeddings = False
    config.text_config.tie_word_embeddings = False
    model = build_model(config, 0)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    adapted = attach_lora(model, LoraConfig(rank=4), "tiny:x", add_flow_tokens(model, tokenizer, 3, 0), 0)
    sizes = [p.numel() for n, p in adapted.named_parameters() if p.requires_grad and "lora_" not in n]
    assert sizes == [3 * SMALL.hidden] * 2


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_the_same_outside_the_adapted_layers(base: Path, bits: int) -> None:
    """Seven layers per block, nothing of the vision tower, not the head; `load_base` checks the names."""
    plain, quantised = load_base(base, FLOAT)[0], load_base(base, FLOAT, bits)[0]
    kinds = {name: type(m).__name__ for name, m in quantised.named_modules() if "bit" in type(m).__name__}
    assert len(kinds) == 7 * SMALL.layers
    assert len(set(kinds.values())) == 1
    kept = {n: p for n, p in plain.named_parameters() if n.removesuffix(".weight").removesuffix(".bias") not in kinds}
    theirs = dict(quantised.named_parameters())
    assert len(kept) > 20
    assert all(torch.equal(value, theirs[name]) for name, value in kept.items())
    assert quantised.lm_head.weight is quantised.get_input_embeddings().weight


# ------------------------------------------------------------------ the checkpoint


def test_a_checkpoint_has_the_promised_files_and_no_path(adapter: TinyAdapter) -> None:
    found = files(adapter.checkpoint)
    promised = {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "action_tokenizer.json",
        "dataset_statistics.json",
        "adapter_card.json",
    }
    assert promised <= found.keys()
    assert not [name for name, content in found.items() if str(adapter.base.parent).encode() in content]


def test_a_checkpoint_is_made_again_byte_for_byte_elsewhere(adapter: TinyAdapter, tmp_path: Path) -> None:
    again = write_tiny_adapter(tmp_path / "elsewhere", TEXT_FLOW_COT)
    assert files(again.checkpoint) == files(adapter.checkpoint)


def test_plain_peft_loads_a_checkpoint_and_agrees_with_ours(adapter: TinyAdapter) -> None:
    loaded = load_checkpoint(adapter.checkpoint, adapter.base, "cpu", FLOAT)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(adapter.base, local_files_only=True)
    plain = PeftModel.from_pretrained(base, adapter.checkpoint).eval()
    vocabulary = loaded.layout.vocabulary
    ids = torch.tensor([[1, 2, vocabulary.flow_start, vocabulary.flow_start + 3, vocabulary.action_start]])
    with torch.no_grad():
        ours, theirs = loaded.model(input_ids=ids).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight


def test_loading_gives_back_what_was_saved(adapter: TinyAdapter) -> None:
    loaded = load_checkpoint(adapter.checkpoint, str(adapter.base), "cpu", FLOAT)
    assert loaded.card.phase == TEXT_FLOW_COT
    assert loaded.card.action_tokenizer == loaded.action_tokenizer.digest
    assert loaded.layout.vocabulary.num_flows == FLOW_CODES
    assert loaded.statistics.dataset == "libero_object"


def test_an_adapter_of_another_base_is_refused_with_both_values(adapter: TinyAdapter, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", replace(SMALL, layers=3))
    with pytest.raises(ConfigError) as refused:
        load_checkpoint(adapter.checkpoint, other, "cpu", FLOAT)
    assert folder_digest(other)[:16] in str(refused.value)
    assert folder_digest(adapter.base)[:16] in str(refused.value)


def test_another_action_tokenizer_beside_the_weights_is_refused_with_both_values(
    adapter: TinyAdapter, tmp_path: Path
) -> None:
    copied, other = shutil.copytree(adapter.checkpoint, tmp_path / "copied"), fitted_actions(codes=300)
    other.save(copied / "action_tokenizer.json")
    with pytest.raises(ConfigError, match="is not the one the checkpoint was trained with") as refused:
        load_checkpoint(copied, adapter.base, "cpu", FLOAT)
    assert other.digest[:16] in str(refused.value)
    assert load_card(copied).action_tokenizer[:16] in str(refused.value)


def test_cut_off_weights_are_named_with_the_command_that_makes_them_again(adapter: TinyAdapter, tmp_path: Path) -> None:
    weights = shutil.copytree(adapter.checkpoint, tmp_path / "cut") / "adapter_model.safetensors"
    card, whole = load_card(weights.parent), weights.read_bytes()
    again = f"nora-ecot train --phase {card.phase.name} --subset {card.subset.value}`"
    for length in (0, 100, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(EnvironmentProblem, match=rf"model\.safetensors is damaged .*{again}"):
            load_checkpoint(weights.parent, adapter.base, "cpu", FLOAT)
    weights.unlink()
    with pytest.raises(EnvironmentProblem, match=rf"model\.safetensors is missing .*{again}"):
        load_checkpoint(weights.parent, adapter.base, "cpu", FLOAT)


def test_another_text_tokenizer_frame_or_rank_is_refused_with_both_values(adapter: TinyAdapter, tmp_path: Path) -> None:
    def changed(name: str, file: str, old: str, new: str) -> Path:
        copied = shutil.copytree(adapter.checkpoint, tmp_path / name)
        text = (copied / file).read_text()
        assert old in text
        (copied / file).write_text(text.replace(old, new))
        return copied

    rank = changed("rank", "adapter_config.json", '"r": 4', '"r": 8')
    with pytest.raises(ConfigError, match=r"says rank 8, the weights have \[4\]"):
        load_checkpoint(rank, adapter.base, "cpu", FLOAT)
    frame = changed("frame", "adapter_card.json", '"rot180"', '"upright"')
    with pytest.raises(ConfigError, match="'upright'; policies here see 'rot180'"):
        load_checkpoint(frame, adapter.base, "cpu", FLOAT)
    words = changed("words", "tokenizer.json", '"<flow_0>"', '"<flow_zero>"')
    with pytest.raises(ConfigError, match="is not the one the checkpoint was trained with") as refused:
        load_checkpoint(words, adapter.base, "cpu", FLOAT)
    assert load_card(words).text_tokenizer[:16] in str(refused.value)


def test_other_statistics_are_refused_with_both_values(adapter: TinyAdapter, tmp_path: Path) -> None:
    named = shutil.copytree(adapter.checkpoint, tmp_path / "named")
    wide_statistics(Subset.GOAL).save(named / "dataset_statistics.json")
    with pytest.raises(ConfigError, match="no statistics of 'libero_object'; it has libero_goal"):
        load_checkpoint(named, adapter.base, "cpu", FLOAT)


def test_another_scale_than_the_one_that_a_tiny_base_brings_is_refused_with_both_values(tmp_path: Path) -> None:
    made = write_tiny_adapter(tmp_path)
    ours = wide_statistics(Subset.OBJECT)
    ours.save(made.base / "dataset_statistics.json")
    assert load_checkpoint(made.checkpoint, made.base, "cpu", FLOAT).statistics.dataset == "libero_object"
    record = json.loads(json.dumps(ours.record))
    record["action"]["q99"][0] *= 2
    other = ActionStatistics.from_record("libero_object", record)
    other.save(made.checkpoint / "dataset_statistics.json")
    with pytest.raises(ConfigError, match="is not the scale of its base") as refused:
        load_checkpoint(made.checkpoint, made.base, "cpu", FLOAT)
    for statistics in (ours, other):
        assert digest(statistics.record)[:16] in str(refused.value)


def test_a_tiny_adapter_without_its_base_and_a_folder_that_is_none(adapter: TinyAdapter, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="give the base's folder"):
        load_checkpoint(adapter.checkpoint, None, "cpu", FLOAT)
    with pytest.raises(EnvironmentProblem, match=r"adapter_card\.json"):
        load_checkpoint(tmp_path, adapter.base, "cpu", FLOAT)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_with_flow_loads_on_a_base_without_a_row_to_spare(tmp_path: Path, *, tied: bool) -> None:
    """Rows are made for training and again for loading; only the adapter's own survive, in plain peft too."""
    base = write_tiny_base(tmp_path / "base", replace(SMALL, flow_rows=0))
    if not tied:
        untie(base)
    model, tokenizer = load_base(base, FLOAT)
    rows = model.get_input_embeddings().num_embeddings
    ids = add_flow_tokens(model, tokenizer, FLOW_CODES, 0)
    assert model.get_input_embeddings().num_embeddings == rows + FLOW_CODES
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    adapted = attach_lora(model, LoraConfig(rank=4), "tiny:x", ids, 0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(len(name)))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in adapted.parameters() if p.requires_grad) + 20_000
    fresh, again = load_base(base, FLOAT)
    add_flow_tokens(fresh, again, FLOW_CODES, seed=99)
    plain = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    inputs = torch.tensor([[1, 2, *ids[:3]]])
    with torch.no_grad():
        expected, found = adapted.eval()(input_ids=inputs).logits, plain(input_ids=inputs).logits
        merged = plain.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=inputs).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tied


def untie(base: Path) -> None:
    """Give a base folder a head of its own."""
    model, _ = load_base(base, FLOAT)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone() * 0.9)
    model.save_pretrained(base)
