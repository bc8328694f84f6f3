"""What the model's head costs in memory: logits of every position against logits of the targets alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

BYTES_PER_LOGIT = 2 + 4 + 4  # bf16, float32 for the loss, its gradient
VOCABULARY_3B = 153_728
SMALL_VOCABULARY, SMALL_WIDTH, SMALL_BATCH = 16_384, 64, 4


def head_memory(batch: int, positions: int, targets: float) -> dict[str, Any]:
    """Computed with 3B's vocabulary (GB), and measured with a small one (MB).

    positions: of a padded row; targets: of a row, on average.
    """
    full, ours = (batch * n * VOCABULARY_3B * BYTES_PER_LOGIT / 1e9 for n in (positions, targets))
    measured = [_measured_mb(round(SMALL_BATCH * n)) for n in (positions, targets)]
    return {
        "computed_3b_gb": {"full": round(full, 2), "ours": round(ours, 2), "ratio": round(full / ours, 1)},
        "measured_small_mb": {
            "vocabulary": SMALL_VOCABULARY,
            "batch": SMALL_BATCH,
            "full": round(measured[0], 1),
            "ours": round(measured[1], 1),
            "ratio": round(measured[0] / measured[1], 1),
        },
    }


def _measured_mb(rows: int) -> float:
    """Most bytes alive at once in the head and its loss, forward and backward, as torch's allocator reports them."""
    hidden = torch.randn(rows, SMALL_WIDTH, requires_grad=True)
    weight = torch.randn(SMALL_VOCABULARY, SMALL_WIDTH)
    wanted = torch.zeros(rows, dtype=torch.int64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        F.cross_entropy(F.linear(hidden, weight).float(), wanted).backward()
    kineto: Any = profile.profiler
    alive = most = 0
    for event in kineto.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most / 1e6
