"""What flow tokens lose and cost: grid, FSQ and EMA-VQ, the last two with and without the static gate, in one run.

All fitted ones have the same encoder and decoder (but for the width of the latent), the same 512 moving codes, loss,
batches and steps; they are fitted on training demonstrations of the four suites and scored on the held-out ones. The
demonstrations and their flow are the stages' own, taken from the output directory or made there first.
One JSON line per tokenizer and subset, and one for the mean of the subsets.
Usage: python benchmarks/bench_flow_tokens.py --output_dir outputs [--steps N] [--out FILE] preset=tiny [key=value ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import keep
from configs.choices import STUDY, Subset
from configs.data import CodebookConfig
from data_pipeline.contract import STATIC_CODE, StageContext
from experiment.datasets import data_for
from experiment.flags import FLAGS, Parser
from experiment.settings import choice_of, places_of
from experiment.store import Store
from experiment.study import Study, run_study
from flow_pipeline.codebook import fit, flows_of
from flow_pipeline.codec import Codec, Fsq, Quantiser
from flow_pipeline.fsq_tokenizer import static_cells
from flow_pipeline.grid_tokenizer import GridTokenizer
from flow_pipeline.token_quality import quality

Flows = Mapping[Subset, tuple[np.ndarray, np.ndarray]]
"""Of each subset, (training, test) flow: float16 [N, 32, 32, 2], pixels at 256 px scale."""

GATE_PX = 0.75
LEVELS = (8, 8, 8)
CODES = 512
VQ_DIM = 16


class EmaVq(nn.Module):
    """The reference: nearest of CODES vectors, which follow what they stand for (van den Oord et al., 2017, A.1).

    Commitment 0.25; a vector that has become too rare is drawn anew from the batch, as is usual.
    """

    def __init__(self, seed: int, decay: float = 0.99, commitment: float = 0.25, rare: float = 0.05) -> None:
        super().__init__()
        self.dim, self._decay, self._commitment, self._rare = VQ_DIM, decay, commitment, rare
        self._draw = torch.Generator().manual_seed(seed)
        self.vectors = torch.randn(CODES, VQ_DIM, generator=self._draw)
        self._count, self._sum = torch.ones(CODES), self.vectors.clone()

    def quantise(self, latent: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """See Quantiser."""
        flat = latent.permute(0, 2, 3, 1).reshape(-1, VQ_DIM)  # [N, D]
        codes = torch.cdist(flat.detach(), self.vectors).argmin(1)
        chosen = self.vectors[codes]
        if latent.requires_grad:
            used = active.reshape(-1)
            pull = torch.where(used[:, None], flat.detach() - chosen, 0) * 2 * self._commitment / used.sum().clamp(1)
            flat.register_hook(lambda gradient: gradient + pull)  # the gradient of the commitment loss
            self._follow(flat.detach()[used], codes[used])
        quantised = flat + (chosen - flat).detach()
        batch, _, side, _ = latent.shape
        return quantised.view(batch, side, side, VQ_DIM).permute(0, 3, 1, 2), codes.view(batch, side, side)

    def look_up(self, codes: Tensor) -> Tensor:
        """See Quantiser."""
        return self.vectors[codes].permute(0, 3, 1, 2)

    def _follow(self, latent: Tensor, codes: Tensor) -> None:
        """Moving averages of how often each vector is chosen and of what for."""
        count = torch.bincount(codes, minlength=CODES).float()
        total = torch.zeros_like(self._sum).index_add_(0, codes, latent)
        self._count.lerp_(count, 1 - self._decay)
        self._sum.lerp_(total, 1 - self._decay)
        rare = self._count < self._rare
        anew = latent[torch.randint(len(latent), (int(rare.sum()),), generator=self._draw)]
        self._sum[rare], self._count[rare] = anew, 1.0
        self.vectors = self._sum / self._count[:, None]


@dataclass(frozen=True)
class Contender:
    """A tokenizer to fit."""

    name: str
    quantiser: Quantiser
    static_px: float


def main() -> int:
    """Make what is missing, fit, score, print."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    FLAGS["preprocess_flow"](parser)
    parser.add_argument("--steps", type=int, default=CodebookConfig.steps)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*")
    values = parser.parse(sys.argv[1:])
    run(stored_flows(values), replace(CodebookConfig(), steps=values.steps), values.out)
    return 0


def stored_flows(values: argparse.Namespace) -> Flows:
    """The stages `flow` and `split` of the four suites, brought up to date."""
    data, prepared = data_for(values, *STUDY)
    nodes = {s: {f"flow/{s}": data.flow(s), f"split/{s}": data.split(s)} for s in STUDY}
    targets = tuple(node for of in nodes.values() for node in of.values())
    done = run_study(Study(places_of(values), targets, (), decisions=prepared.said), choice_of(values, data.config))
    if done.code:
        raise SystemExit(done.code)
    store = Store(places_of(values).store)
    folders = {s: {name: store.entry(node.stage, node.key) for name, node in of.items()} for s, of in nodes.items()}
    return {s: flows_of(StageContext(Path(), of), s) for s, of in folders.items()}


def run(flows: Flows, plan: CodebookConfig, out: Path | None) -> None:
    """Every tokenizer on the same demonstrations."""
    about = {"benchmark": "flow_tokens", "cells": 8, "test_frames": {s: len(test) for s, (_, test) in flows.items()}}
    for levels in (5, 22):  # the default; as many codes as the others
        grid = GridTokenizer(8, levels, GATE_PX)
        codes = {s: grid.encode(test) for s, (_, test) in flows.items()}
        figures = {s: quality([(flows[s][1], c, grid.decode(c))], grid.num_codes) for s, c in codes.items()}
        _keep(about, f"grid {levels} x {levels}", figures, out)
    contenders = (
        Contender("fsq, gate", Fsq(LEVELS), GATE_PX),
        Contender("fsq", Fsq(LEVELS), 0.0),
        Contender("ema-vq", EmaVq(plan.seed), 0.0),
        Contender("ema-vq, gate", EmaVq(plan.seed), GATE_PX),
    )
    about |= {"steps": plan.steps, "width": plan.width, "blocks": plan.blocks, "batch": plan.batch_size}
    about["train_frames"] = {s: len(train) for s, (train, _) in flows.items()}
    for contender in contenders:
        torch.manual_seed(plan.seed)
        codec = Codec(contender.quantiser, 8, plan.width, plan.blocks)
        start = time.process_time()
        fit(codec, [train for train, _ in flows.values()], plan, contender.static_px)
        fitted = {"parameters": sum(p.numel() for p in codec.parameters())}
        fitted["fit_cpu_s"] = round(time.process_time() - start)
        figures = {s: _score(codec, test, contender.static_px) for s, (_, test) in flows.items()}
        _keep({**about, **fitted}, contender.name, figures, out)


def _score(codec: Codec, flow: np.ndarray, static_px: float) -> dict[str, float]:
    static = static_cells(flow.astype(np.float32), 8, static_px)
    with torch.inference_mode():
        decoded, codes = codec(torch.from_numpy(flow.astype(np.float32)).permute(0, 3, 1, 2), torch.from_numpy(static))
    tokens = np.where(static, STATIC_CODE, 1 + codes.numpy()).reshape(len(flow), -1)
    return quality([(flow, tokens, decoded.permute(0, 2, 3, 1).numpy())], CODES + 1)


def _keep(
    about: Mapping[str, object], name: str, figures: Mapping[Subset, Mapping[str, float]], out: Path | None
) -> None:
    for subset, found in figures.items():
        keep({**about, "tokenizer": name, "subset": subset.value, **found}, out)
    rows: Sequence[Mapping[str, float]] = list(figures.values())
    mean = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
    keep({**about, "tokenizer": name, "subset": "mean", **mean}, out)


if __name__ == "__main__":
    raise SystemExit(main())
