"""A checkpoint as transformers 4 wrote it, as NORA's are: old key names, one flat configuration. It loads whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.checks import ConfigError
from data_pipeline.contract import Sample
from tests.helpers.forward_inputs import forward_inputs
from tests.helpers.full_checkpoint import as_transformers_4
from tests.helpers.tiny_adapter import BASELINE, CORPUS, SMALL, fitted_actions
from training.batch import collate
from training.dataset import TrainingData
from training.layout import flatten, spans
from training.lora_model import load_base, make_layout
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base

Weights = dict[str, torch.Tensor]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def written(folder: Path, *, tied: bool) -> torch.nn.Module:
    """A random model, and the same in `folder`. Its rotary base and sections are not the class's defaults."""
    actions = fitted_actions()
    tokenizer = build_tokenizer([*CORPUS] * 4, SMALL.text_vocab, actions.num_codes)
    config = build_config(tokenizer, SMALL)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    config.text_config.rope_parameters["rope_theta"] = 500.0
    model = build_model(config, 0).eval()
    save_base(folder, model, tokenizer, SMALL)
    as_transformers_4(folder)
    return model


def change(folder: Path, edit: Callable[[Weights], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop(name: str) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        del weights[name]

    return edit


def inputs(folder: Path, sample: Sample) -> dict[str, torch.Tensor]:
    actions = fitted_actions()
    _, tokenizer = load_base(folder, torch.float32)
    layout = make_layout(BASELINE, tokenizer, actions, 0, SMALL.image_size, SMALL.system_prompt)
    sequence = flatten(spans(layout, sample))
    return forward_inputs(collate([sequence], sample.image[None], layout), layout.vocabulary)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_it_loads_whole_and_is_the_model_it_was_made_from(tmp_path: Path, data: TrainingData, *, tied: bool) -> None:
    original = written(tmp_path, tied=tied)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"visual.patch_embed.proj.weight", "model.layers.0.mlp.up_proj.weight", EMBEDDING} <= names
    assert (HEAD in names) != tied
    assert not [name for name in names if "language_model" in name or name.startswith("model.visual")]
    loaded, _ = load_base(tmp_path, torch.float32)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    theirs = dict(original.named_parameters())
    ours = dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    given = inputs(tmp_path, data.sample(3))
    with torch.no_grad():
        expected, found = original(**given).logits, loaded(**given).logits
    assert np.array_equal(found.numpy(), expected.numpy())


def test_a_head_that_a_tied_checkpoint_also_holds_is_the_embedding(tmp_path: Path, data: TrainingData) -> None:
    original = written(tmp_path, tied=True)
    change(tmp_path, lambda weights: weights.update({HEAD: weights[EMBEDDING].clone()}))
    loaded, _ = load_base(tmp_path, torch.float32)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    given = inputs(tmp_path, data.sample(3))
    with torch.no_grad():
        assert torch.equal(loaded(**given).logits, original(**given).logits)


def test_a_missing_and_an_unknown_weight_are_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path, tied=True)
    change(tmp_path, lambda weights: weights.update({"visual.blocks.0.extra.weight": torch.zeros(2)}))
    with pytest.raises(ConfigError, match=r"unexpected .*visual\.blocks\.0\.extra\.weight"):
        load_base(tmp_path, torch.float32)
    written(tmp_path, tied=True)
    change(tmp_path, drop("model.norm.weight"))
    with pytest.raises(ConfigError, match=r"missing model\.language_model\.norm\.weight"):
        load_base(tmp_path, torch.float32)


def test_a_head_that_is_not_tied_must_be_there(tmp_path: Path) -> None:
    written(tmp_path, tied=False)
    change(tmp_path, drop(HEAD))
    with pytest.raises(ConfigError, match=r"missing lm_head\.weight"):
        load_base(tmp_path, torch.float32)


def test_a_weight_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path, tied=True)
    change(tmp_path, lambda weights: weights.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(ConfigError, match=r"mismatched .*model\.language_model\.norm\.weight"):
        load_base(tmp_path, torch.float32)
