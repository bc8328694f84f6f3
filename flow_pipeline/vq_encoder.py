"""Flow to discrete tokens and back: what every tokenizer offers, the file it travels in, and the stage `tokens`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from configs.checks import check
from configs.slices import TokensSlice
from data_pipeline.contract import EnvironmentProblem, EpisodeId, FlowTokens, StageContext
from data_pipeline.flow_tokens import (
    FLOW_COMMAND,
    FLOW_TOKENS_JSON,
    FLOW_TOKENS_NPZ,
    PLACE,
    made_of,
    save_flow_tokens,
)
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.whole_files import written_whole
from flow_pipeline.flow_field import EpisodeFlow, load_flow
from flow_pipeline.fsq_definition import FSQ_CONSTANTS
from flow_pipeline.grid_tokenizer import GridTokenizer
from flow_pipeline.token_quality import ALL, DEMONSTRATIONS, quality

TOKENIZER_FILE = "flow_tokenizer.safetensors"
"""Beside the tokens: weights, where there are any, and the definition as metadata."""


class FlowTokenizer(Protocol):
    """Codes 0..num_codes - 1, cells x cells of them per step; STATIC_CODE stands for no motion."""

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        ...

    @property
    def cells(self) -> int:
        """Codes per side."""
        ...

    @property
    def definition(self) -> Mapping[str, Any]:
        """All that decides what a code means, weights apart; plain JSON values."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the definition and the weights."""
        ...

    def encode(self, flow: np.ndarray) -> np.ndarray:
        """flow: float [T, C, C, 2], pixels at 256 px scale, ROT180. Returns uint16 [T, cells * cells]."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes: int [T, cells * cells]. Returns float32 [T, D, D, 2], pixels at 256 px scale, ROT180.

        Raises ValueError for a code outside the vocabulary.
        """
        ...


def save_tokenizer(path: Path, definition: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, atomically; equal tokenizers give equal bytes."""
    metadata = {"definition": json.dumps(dict(definition), sort_keys=True)}
    with written_whole(path) as partial:
        partial.write_bytes(save(dict(weights), metadata))


def load_tokenizer(path: Path) -> FlowTokenizer:
    """Read what `save_tokenizer` wrote.

    Raises EnvironmentProblem that names the file, ConfigError for codes that mean something else to this version.
    """
    try:
        with safe_open(path, "numpy") as file:
            definition = json.loads(file.metadata()["definition"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblem(
            f"{path} is no flow tokenizer ({type(error).__name__}: {error}); the stage `tokens` writes one: run "
            f"`{FLOW_COMMAND.format(subset='<subset>', path='flow_tokens/<subset>_flow.json')}` again"
        ) from error
    if definition.get("name") == "grid":
        tokenizer: FlowTokenizer = GridTokenizer.of(definition)
        known = tokenizer.definition
    else:
        from flow_pipeline.fsq_tokenizer import FsqTokenizer  # torch: only where something was fitted

        tokenizer, known = FsqTokenizer(definition, weights), definition | FSQ_CONSTANTS
    check(known == definition, f"{path}: a flow tokenizer {definition}; this version reads {known}")
    return tokenizer


# ------------------------------------------------------------------ the stage


def run_tokens(config: TokensSlice, context: StageContext) -> list[str]:
    """Stage `tokens`: flow.npz -> flow_tokens.{json,npz} and their tokenizer; how much they lose is in the manifest."""
    fitted, own = context.inputs.get("codebook"), context.work / TOKENIZER_FILE
    if config.grid is not None:
        save_tokenizer(own, GridTokenizer(**vars(config.grid)).definition, {})
    elif fitted is not None:
        shutil.copyfile(fitted / TOKENIZER_FILE, own)
    tokenizer = load_tokenizer(own)
    episodes, source = load_flow(context.inputs["flow"] / "flow.npz")
    tokens: dict[EpisodeId, FlowTokens] = {}
    for done, (episode, flow) in enumerate(episodes.items()):
        context.report(done, len(episodes), str(episode))
        context.checkpoint()
        tokens[episode] = _tokenize(episode, flow, int(source["k"]), tokenizer)
    lost = quality(
        ((flow.flow, tokens[e].codes, tokenizer.decode(tokens[e].codes)) for e, flow in episodes.items()),
        tokenizer.num_codes,
    )
    figures = {DEMONSTRATIONS: ALL, **lost}
    demos = Hdf5Source(context.inputs["regenerate"], config.subset)
    manifest = {
        **{name: source[name] for name in ("backend", *PLACE) if name in source},
        **made_of(map(demos.open, demos.list())),
        "tokenizer": dict(tokenizer.definition),
        "quality": figures,
    }
    save_flow_tokens(context.work / FLOW_TOKENS_JSON, tokens, manifest)
    context.remarks["quality"] = figures
    context.report(len(episodes), len(episodes), f"{tokenizer.num_codes} codes")
    return [FLOW_TOKENS_JSON, FLOW_TOKENS_NPZ, TOKENIZER_FILE]


def _tokenize(episode: EpisodeId, flow: EpisodeFlow, k: int, tokenizer: FlowTokenizer) -> FlowTokens:
    return FlowTokens(
        episode=episode,
        codes=tokenizer.encode(flow.flow.astype(np.float32)),
        k_effective=flow.k_effective,
        k=k,
        num_codes=tokenizer.num_codes,
        tokenizer_digest=tokenizer.digest,
    )
