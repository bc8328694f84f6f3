"""Flow to discrete tokens and back: what every tokenizer offers, the file it travels in, and the stage `tokens`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from configs.schema import check
from configs.slices import TokensSlice
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem, EpisodeId, FlowTokens, StageContext
from data_pipeline.flow_tokens import save_flow_tokens
from data_pipeline.whole_files import written_whole
from flow_pipeline.flow_field import EpisodeFlow, load_flow
from flow_pipeline.grid_tokenizer import STATIC_CODE, GridTokenizer

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
    def definition(self) -> dict[str, Any]:
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
    """Read what `save_tokenizer` wrote. Raises EnvironmentProblem that names the file."""
    try:
        with safe_open(path, "numpy") as file:
            definition = json.loads(file.metadata()["definition"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblem(
            f"{path} is no flow tokenizer ({type(error).__name__}: {error}); the stage `tokens` writes one: run "
            "`python scripts/preprocess_flow.py --subset <subset>` again"
        ) from error
    return GridTokenizer.of(definition)


def run_tokens(config: TokensSlice, context: StageContext) -> list[str]:
    """Stage `tokens`: flow.npz -> flow_tokens.json and the tokenizer, with how much the tokens lose in the manifest."""
    check(config.tokenizer == "grid", f"flow.tokenizer={config.tokenizer!r}; allowed: grid")
    tokenizer = GridTokenizer(config.cells, config.levels, config.static_px)
    episodes, source = load_flow(context.inputs["flow"] / "flow.npz")
    tokens: dict[EpisodeId, FlowTokens] = {}
    for done, (episode, flow) in enumerate(episodes.items()):
        context.report(done, len(episodes), str(episode))
        context.checkpoint()
        tokens[episode] = _tokenize(episode, flow, int(source["k"]), tokenizer)
    manifest = {
        "backend": source["backend"],
        "camera": AGENTVIEW,
        "frame": "rot180",
        "tokenizer": tokenizer.definition,
        "quality": quality(episodes, tokens, tokenizer, config.static_px),
    }
    save_flow_tokens(context.work / "flow_tokens.json", tokens, manifest)
    save_tokenizer(context.work / TOKENIZER_FILE, tokenizer.definition, {})
    context.report(len(episodes), len(episodes), f"{tokenizer.num_codes} codes")
    return ["flow_tokens.json", TOKENIZER_FILE]


def quality(
    flows: Mapping[EpisodeId, EpisodeFlow],
    tokens: Mapping[EpisodeId, FlowTokens],
    tokenizer: FlowTokenizer,
    moving_px: float,
) -> dict[str, float]:
    """End-point error of the tokens against the stored flow, in pixels at 256 px scale, and bits per frame.

    `moving` cells are at least `moving_px` long; `zero` is the error of predicting no motion there. Bits are the
    empirical entropy of the codes times the codes per frame.
    """
    truth = np.concatenate([f.flow.astype(np.float32) for f in flows.values()])
    codes = np.concatenate([tokens[e].codes for e in flows])
    decoded = _enlarge(tokenizer.decode(codes), truth.shape[1])
    error, length = np.linalg.norm(decoded - truth, axis=-1), np.linalg.norm(truth, axis=-1)
    moving = length >= moving_px
    share = np.bincount(codes.ravel(), minlength=tokenizer.num_codes) / codes.size
    entropy = -float(np.sum(share[share > 0] * np.log2(share[share > 0])))
    figures = {
        "epe_all": float(error.mean()),
        "epe_moving": float(error[moving].mean()) if moving.any() else 0.0,
        "epe_moving_zero": float(length[moving].mean()) if moving.any() else 0.0,
        "bits_per_frame": entropy * codes.shape[1],
        "static_share": float(share[STATIC_CODE]),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def _tokenize(episode: EpisodeId, flow: EpisodeFlow, k: int, tokenizer: FlowTokenizer) -> FlowTokens:
    return FlowTokens(
        episode=episode,
        codes=tokenizer.encode(flow.flow.astype(np.float32)),
        k_effective=flow.k_effective,
        k=k,
        num_codes=tokenizer.num_codes,
        tokenizer_digest=tokenizer.digest,
    )


def _enlarge(flow: np.ndarray, size: int) -> np.ndarray:
    """Repeat cells: [T, c, c, 2] -> [T, size, size, 2]."""
    index = np.arange(size) * flow.shape[1] // size
    return flow[:, index][:, :, index]
