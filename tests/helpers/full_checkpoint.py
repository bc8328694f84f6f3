"""A small whole model as others publish one: configuration, weights, tokenizer, as transformers 4 or 5 writes them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.helpers.tiny_adapter import CORPUS, SMALL
from training.tiny_backbone import build_config, build_model, build_tokenizer, save_base

BOUNDS = {
    "q01": [-0.5, -0.6, -0.7, -0.1, -0.2, -0.3, 0.0],
    "q99": [0.8, 0.7, 0.9, 0.2, 0.1, 0.15, 1.0],
    "mask": [True] * 6 + [False],
}


def write_full(folder: Path, action_codes: int, layout: int = 5) -> Path:
    """Random weights; `action_codes` must be those of its FAST tokenizer. Returns the folder."""
    tokenizer = build_tokenizer([*CORPUS] * 4, SMALL.text_vocab, action_codes)
    save_base(folder, build_model(build_config(tokenizer, SMALL), 0), tokenizer, SMALL)
    if layout == 4:
        as_transformers_4(folder)
    return folder


def write_statistics(path: Path, *keys: str) -> Path:
    """OpenVLA's layout, the same bounds under every key."""
    path.write_text(json.dumps({key: {"action": BOUNDS} for key in keys}))
    return path


def as_transformers_4(folder: Path) -> None:
    """Rewrite a model folder with the key names and the flat configuration that NORA's checkpoints came with."""
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for name, value in weights.items()
    }
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"]}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    for name in ("model_type", "layer_types", "dtype"):
        text.pop(name, None)
    (folder / "config.json").write_text(json.dumps({**text, **config, "transformers_version": "4.51.3"}))
