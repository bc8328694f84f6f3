"""Flow of a hand that moves one way, and its tokens."""

from __future__ import annotations

import numpy as np

from data_pipeline.contract import EpisodeId, FlowTokens
from flow_pipeline.flow_field import STORED_CELLS, EpisodeFlow, k_effective
from flow_pipeline.grid_tokenizer import GridTokenizer

GRID = GridTokenizer(cells=8, levels=17, static_px=0.75)
K = 4


def moving_hand(steps: int, toward: tuple[float, float] = (12.0, 0.0)) -> EpisodeFlow:
    """A square of 8 x 8 stored cells that moves by `toward` pixels in every step that looks ahead."""
    flow = np.zeros((steps, STORED_CELLS, STORED_CELLS, 2), np.float16)
    flow[:-1, 8:16, 4:12] = toward
    return EpisodeFlow(flow, k_effective(steps, K))


def tokens_of(episode: EpisodeId, flow: EpisodeFlow) -> FlowTokens:
    """As the stage `tokens` makes them, with GRID."""
    codes = GRID.encode(flow.flow.astype(np.float32))
    return FlowTokens(episode, codes, flow.k_effective, K, GRID.num_codes, GRID.digest)
