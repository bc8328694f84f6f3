"""Flow tokens that a user gives in place of the stage's own: refused by name where other settings made them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.checks import ConfigError, check
from configs.slices import CodebookSlice, TokensSlice
from data_pipeline.libero_utils import parse_subset
from experiment.files import environment_errors
from experiment.given import is_own
from experiment.stages import StageNode, stored_node
from experiment.store import Store

FLOW_TOKENS = ("flow_tokens.json", "flow_tokens.npz", "flow_tokenizer.safetensors")
"""What the stage `tokens` writes; the first is what a user names, the others lie beside it."""


def flow_tokens_given(store: Store, path: Path, own: StageNode) -> StageNode:
    """Flow tokens by path, .json or .npz, with their tokenizer beside them (a grid needs no file).

    Raises ConfigError where k, camera, frame or tokenizer are not those of `own`, the stage that they stand for;
    EnvironmentProblem where the file is damaged. Training compares the demonstrations.
    """
    inside = next((name for name in FLOW_TOKENS if Path(name).suffix == path.suffix), FLOW_TOKENS[0])
    if is_own(store, path, inside, own, "preprocess_flow"):
        return own
    from data_pipeline.flow_tokens import (
        PLACE,
        check_flow_manifest,
        load_flow_manifest,
        load_flow_tokens,
        save_flow_tokens,
    )

    manifest = load_flow_manifest(path)
    wanted = {"k": own.inputs["flow"].spec.config["k"], **PLACE, **_wanted_tokenizer(store, own)}
    check_flow_manifest(path, manifest, wanted, parse_subset(own.spec.slug))
    with environment_errors(), tempfile.TemporaryDirectory() as folder:
        save_flow_tokens(Path(folder) / FLOW_TOKENS[0], load_flow_tokens(path), manifest)
        _bring_tokenizer(path, manifest, Path(folder) / FLOW_TOKENS[2])
        key, _ = store.import_path(Path(folder), "", path.name)
    return stored_node("file", path.name, key)


def _wanted_tokenizer(store: Store, own: StageNode) -> dict[str, Any]:
    """The manifest's entries about the tokenizer, as far as they are known before anything ran."""
    from flow_pipeline.fsq_definition import fsq_definition
    from flow_pipeline.grid_tokenizer import GridTokenizer
    from flow_pipeline.vq_encoder import load_tokenizer

    config: TokensSlice = own.spec.build_config()
    if config.grid is not None:
        return {"tokenizer": GridTokenizer(**vars(config.grid)).definition}
    codebook = own.inputs["codebook"]
    fitted: CodebookSlice = codebook.spec.build_config()
    wanted: dict[str, Any] = {"tokenizer": fsq_definition(fitted)}
    if store.whole(codebook.stage, codebook.key) is not None:
        path = store.entry(codebook.stage, codebook.key) / FLOW_TOKENS[2]
        wanted["tokenizer_digest"] = load_tokenizer(path).digest
    return wanted


def _bring_tokenizer(path: Path, manifest: Mapping[str, Any], target: Path) -> None:
    from flow_pipeline.vq_encoder import load_tokenizer, save_tokenizer

    beside = [path.with_suffix(target.suffix), path.with_name(target.name)]
    found = next((file for file in beside if file.is_file()), None)
    if found is not None:
        shutil.copyfile(found, target)
    elif manifest["tokenizer"]["name"] == "grid":
        save_tokenizer(target, manifest["tokenizer"], {})
    else:
        raise ConfigError(f"{beside[0]} is missing: the tokenizer of {path}, which preprocess_flow writes beside it")
    made, wanted = load_tokenizer(target).digest, manifest["tokenizer_digest"]
    check(
        made == wanted,
        f"{found or target} is tokenizer {made[:16]}, and {path} was made by {wanted[:16]}; copy both from one place",
    )
