"""Stage `codebook`: one fitted tokenizer for a declared set of subsets, on their training demonstrations alone.

Every batch holds as many steps of each subset, so that none is served worse for having fewer. On the CPU, on one
thread: the same configuration and demonstrations give the same codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.choices import Subset
from configs.data import CodebookConfig
from configs.slices import CodebookSlice
from data_pipeline.contract import StageContext
from data_pipeline.data_splitter import SPLIT_FILE, load_split
from data_pipeline.whole_files import write_json
from flow_pipeline.codec import Codec, one_thread
from flow_pipeline.companding import COMPAND_SCALE_PX
from flow_pipeline.flow_field import load_flow
from flow_pipeline.fsq_definition import fsq_definition
from flow_pipeline.fsq_tokenizer import FsqTokenizer, new_codec, static_cells
from flow_pipeline.token_quality import DEMONSTRATIONS, HELD_OUT, MOVING_PX, TRAINING, quality
from flow_pipeline.vq_encoder import TOKENIZER_FILE, save_tokenizer

CODEBOOK_FILE = "codebook.json"
MOST_FRAMES = 20_000  # of a subset, evenly spread: neighbouring steps are nearly the same
SMOOTH_PX = 0.1  # below it an error counts by its square
STILL_WEIGHT = 0.1  # of a stored cell that does not move, beside one that does
PIXEL_SHARE = 0.5  # of the loss, the error in pixels; the rest is in companded units, where short motions count too


def run_codebook(config: CodebookSlice, context: StageContext) -> list[str]:
    """Inputs flow/<s>, split/<s> for each subset s. Outputs the tokenizer, and codebook.json: how well it does."""
    flows = {subset: flows_of(context, subset) for subset in config.codebook.subsets}

    def report(step: int, loss: float) -> None:
        context.report(step, config.codebook.steps, f"loss {loss:.3f}")
        context.checkpoint()

    tokenizer = fit_fsq(config, [train for train, _ in flows.values()], report)
    figures = {subset.value: _figures(tokenizer, *parts) for subset, parts in flows.items()}
    context.remarks["quality"] = figures
    save_tokenizer(context.work / TOKENIZER_FILE, tokenizer.definition, tokenizer.weights)
    write_json(context.work / CODEBOOK_FILE, {"digest": tokenizer.digest, "quality": figures})
    return [TOKENIZER_FILE, CODEBOOK_FILE]


Report = Callable[[int, float], None]
"""(step, loss) -> nothing; may raise to stop."""


def fit_fsq(
    config: CodebookSlice, frames: Sequence[np.ndarray], report: Report = lambda step, loss: None
) -> FsqTokenizer:
    """frames: of each subset, float16 [N, S, S, 2], pixels at 256 px scale."""
    definition = fsq_definition(config)
    torch.manual_seed(config.codebook.seed)
    codec = new_codec(definition)
    fit(codec, frames, config.codebook, config.static_px, report)
    return FsqTokenizer(definition, {name: value.numpy() for name, value in codec.state_dict().items()})


def fit(
    codec: Codec,
    frames: Sequence[np.ndarray],
    plan: CodebookConfig,
    static_px: float,
    report: Report = lambda step, loss: None,
) -> None:
    """Adam on `loss_of`, one cycle of the learning rate. frames: as for `fit_fsq`, equally many drawn of each."""
    rng = np.random.default_rng(plan.seed)
    kept = [f[:: max(1, len(f) // MOST_FRAMES)] for f in frames]
    optimizer = torch.optim.Adam(codec.parameters(), plan.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.steps)
    with one_thread():
        for step in range(plan.steps):
            flow = np.concatenate([f[rng.integers(0, len(f), plan.batch_size // len(kept))] for f in kept])
            flow = flow.astype(np.float32)
            static = torch.from_numpy(static_cells(flow, codec.cells, static_px))
            truth = torch.from_numpy(flow).permute(0, 3, 1, 2)
            decoded, _ = codec(truth, static)
            loss = loss_of(decoded, truth)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            report(step, loss.item())


def loss_of(decoded: Tensor, truth: Tensor) -> Tensor:
    """Float [B, 2, S, S] twice, pixels at 256 px scale -> a number without unit."""
    weight = torch.where(truth.square().sum(1) >= MOVING_PX**2, 1.0, STILL_WEIGHT)  # [B, S, S]
    pixels = ((decoded - truth).square().sum(1) + SMOOTH_PX**2).sqrt() / COMPAND_SCALE_PX
    units = (torch.asinh(decoded / COMPAND_SCALE_PX) - torch.asinh(truth / COMPAND_SCALE_PX)).abs().sum(1)
    return ((PIXEL_SHARE * pixels + (1 - PIXEL_SHARE) * units) * weight).sum() / weight.sum()


def flows_of(context: StageContext, subset: Subset) -> tuple[np.ndarray, np.ndarray]:
    """(training, test) flow of a subset, float16 [N, S, S, 2]; without the last steps, which get no tokens."""
    episodes, manifest = load_flow(context.inputs[f"flow/{subset}"] / "flow.npz")
    split = load_split(context.inputs[f"split/{subset}"] / SPLIT_FILE)
    of = {e: flow.flow[2 * flow.k_effective >= manifest["k"]] for e, flow in episodes.items()}
    train, test = ([of[e] for e in part] for part in (split.train, split.test))
    return np.concatenate(train), np.concatenate(test) if test else np.zeros((0, *train[0].shape[1:]), np.float16)


def _figures(tokenizer: FsqTokenizer, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Of held-out demonstrations; of those of training, and saying so, where a split holds none out."""
    flow, of = (test, HELD_OUT) if len(test) else (train, TRAINING)
    codes = tokenizer.encode(flow)
    return {DEMONSTRATIONS: of, **quality([(flow, codes, tokenizer.decode(codes))], tokenizer.num_codes)}
