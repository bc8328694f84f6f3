"""Flow to discrete tokens and back, and the stage `tokens`.

`grid`: the mean flow of each cell, companded by asinh with a fixed scale (2 % of the width, never a per-frame maximum)
and quantised. It needs no training, so nothing is fitted on test episodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from configs.schema import canonical, check
from configs.slices import TokensSlice
from data_pipeline.contract import AGENTVIEW, POINT_GRID, EpisodeId, FlowTokens, StageContext
from data_pipeline.sidecar import save_flow_tokens
from flow_pipeline.flow_field import EpisodeFlow, load_flow

STATIC_CODE = 0
COMPAND_SCALE_PX = 0.02 * POINT_GRID
LIMIT_PX = 48.0
"""Components beyond it saturate. Of 16 to 96 it loses least at 5 levels (end-point error of moving cells, k = 8, on
expert demonstrations of object and long: 9.2 and 11.6 px with 4 x 4 cells, where no motion has 16.4 and 22.0)."""


@dataclass(frozen=True)
class GridTokenizer:
    """cells x cells codes per step: 0 is static, else ``1 + level_x * levels + level_y``."""

    cells: int
    levels: int
    static_px: float  # a cell whose mean flow is no longer is static; pixels at 256 px scale

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return 1 + self.levels**2

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides what a code means."""
        constants = {"name": "grid", "scale_px": COMPAND_SCALE_PX, "limit_px": LIMIT_PX, "point_grid": POINT_GRID}
        return {**canonical(self), **constants}

    @property
    def digest(self) -> str:
        """sha256 of the definition."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()

    def encode(self, flow: np.ndarray) -> np.ndarray:
        """flow: float [T, C, C, 2], pixels at 256 px scale, C at least `cells`. Returns uint16 [T, cells * cells]."""
        means = np.stack([_reduce(step, self.cells) for step in flow]) if len(flow) else flow[:, :0, :0]
        unit = np.arcsinh(means / COMPAND_SCALE_PX) / _UNIT_LIMIT  # about [-1, 1]
        level = np.clip(np.floor((unit + 1) / 2 * self.levels), 0, self.levels - 1).astype(np.int64)
        codes = 1 + level[..., 0] * self.levels + level[..., 1]
        static = np.linalg.norm(means, axis=-1) <= self.static_px
        return np.where(static, STATIC_CODE, codes).astype(np.uint16).reshape(len(flow), self.cells**2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes: int [T, cells * cells]. Returns float32 [T, cells, cells, 2], pixels at 256 px scale.

        Raises ValueError for a code outside the vocabulary.
        """
        codes = np.asarray(codes, np.int64)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.num_codes):
            raise ValueError(f"flow codes {codes.min()}..{codes.max()} are outside 0..{self.num_codes - 1}")
        level = np.stack(np.divmod(codes - 1, self.levels), -1)
        unit = (level + 0.5) / self.levels * 2 - 1
        flow = np.where((codes == STATIC_CODE)[..., None], 0, np.sinh(unit * _UNIT_LIMIT) * COMPAND_SCALE_PX)
        return flow.astype(np.float32).reshape(len(codes), self.cells, self.cells, 2)


_UNIT_LIMIT = float(np.arcsinh(LIMIT_PX / COMPAND_SCALE_PX))


def run_tokens(config: TokensSlice, context: StageContext) -> list[str]:
    """Stage `tokens`: flow.npz -> flow_tokens.json, with how much the tokens lose in the manifest."""
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
        "quality": quality(episodes, tokens, tokenizer),
    }
    save_flow_tokens(context.work / "flow_tokens.json", tokens, manifest)
    context.report(len(episodes), len(episodes), f"{tokenizer.num_codes} codes")
    return ["flow_tokens.json"]


def quality(
    flows: Mapping[EpisodeId, EpisodeFlow], tokens: Mapping[EpisodeId, FlowTokens], tokenizer: GridTokenizer
) -> dict[str, float]:
    """End-point error of the tokens against the stored flow, in pixels at 256 px scale, and bits per frame.

    `moving` cells are at least `static_px` long; `zero` is the error of predicting no motion there. Bits are the
    empirical entropy of the codes times the codes per frame.
    """
    truth = np.concatenate([f.flow.astype(np.float32) for f in flows.values()])
    codes = np.concatenate([tokens[e].codes for e in flows])
    decoded = _enlarge(tokenizer.decode(codes), truth.shape[1])
    error, length = np.linalg.norm(decoded - truth, axis=-1), np.linalg.norm(truth, axis=-1)
    moving = length >= tokenizer.static_px
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


def _tokenize(episode: EpisodeId, flow: EpisodeFlow, k: int, tokenizer: GridTokenizer) -> FlowTokens:
    return FlowTokens(
        episode=episode,
        codes=tokenizer.encode(flow.flow.astype(np.float32)),
        k_effective=flow.k_effective,
        k=k,
        num_codes=tokenizer.num_codes,
        tokenizer_digest=tokenizer.digest,
    )


def _reduce(flow: np.ndarray, cells: int) -> np.ndarray:
    """Area means: float [C, C, 2] -> float32 [cells, cells, 2]."""
    return cv2.resize(flow.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)


def _enlarge(flow: np.ndarray, size: int) -> np.ndarray:
    """Repeat cells: [T, c, c, 2] -> [T, size, size, 2]."""
    index = np.arange(size) * flow.shape[1] // size
    return flow[:, index][:, :, index]
