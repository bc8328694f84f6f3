"""How much flow tokens lose: end-point errors against the stored flow, and what the codes cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data_pipeline.contract import STATIC_CODE

MOVING_PX = 0.75
"""A stored cell moves where its flow is at least this long, pixels at 256 px scale, whatever the tokenizer's gate."""
ALARM_RATIO = 1.3
DEMONSTRATIONS = "demonstrations"
"""Which ones figures are of, where a stage keeps them: ALL, HELD_OUT or TRAINING."""
ALL, HELD_OUT, TRAINING = "all", "held-out", "training"


def quality(flows: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], num_codes: int) -> dict[str, float]:
    """Figures over many episodes.

    flows: per episode, the stored flow [T, S, S, 2], codes [T, N] and their decoded flow [T, D, D, 2]; pixels at 256 px
    scale. Returns epe_all, epe_moving and epe_moving_zero (that of predicting no motion) in those pixels;
    bits_per_frame, the empirical entropy of the codes times their number; active_cells per frame; utilisation, the
    share of the vocabulary that occurs; static_share of the codes.
    """
    count = np.zeros(num_codes, np.int64)
    error_sum = moving_error = moving_length = 0.0
    cells = moving_cells = steps = 0
    for truth, codes, decoded in flows:
        length = np.linalg.norm(truth.astype(np.float32), axis=-1)
        error = np.linalg.norm(enlarge(decoded, truth.shape[1]) - truth, axis=-1)
        moving = length >= MOVING_PX
        error_sum += float(error.sum())
        moving_error += float(error[moving].sum())
        moving_length += float(length[moving].sum())
        cells, moving_cells, steps = cells + error.size, moving_cells + int(moving.sum()), steps + len(codes)
        count += np.bincount(codes.ravel(), minlength=num_codes)
    share = count / count.sum()
    entropy = -float(np.sum(share[share > 0] * np.log2(share[share > 0])))
    per_frame = count.sum() / steps
    figures = {
        "epe_all": error_sum / cells,
        "epe_moving": moving_error / max(moving_cells, 1),
        "epe_moving_zero": moving_length / max(moving_cells, 1),
        "bits_per_frame": entropy * per_frame,
        "active_cells": per_frame * (1 - share[STATIC_CODE]),
        "utilisation": float((count > 0).mean()),
        "static_share": float(share[STATIC_CODE]),
    }
    return {name: round(float(value), 3) for name, value in figures.items()}


def quality_line(name: str, figures: Mapping[str, Any]) -> str:
    """One line for people. figures: of `quality`, with DEMONSTRATIONS."""
    return (
        f"{name}, on {figures[DEMONSTRATIONS]} demonstrations: end-point error {figures['epe_moving']:.2f} px where "
        f"something moves (no motion: {figures['epe_moving_zero']:.2f}), {figures['epe_all']:.2f} px everywhere; "
        f"{figures['bits_per_frame']:.0f} bits and {figures['active_cells']:.1f} active cells per frame; "
        f"{figures['utilisation']:.0%} of the codes occur"
    )


def alarms(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each subset whose tokens lose more than ALARM_RATIO times the mean of all. figures: as one line's.

    What is compared is the share of the motion that is lost, epe_moving / epe_moving_zero: a suite with longer motions
    has larger errors in pixels without being served worse.
    """
    lost = {name: f["epe_moving"] / f["epe_moving_zero"] for name, f in figures.items() if f["epe_moving_zero"] > 0}
    mean = float(np.mean(list(lost.values()))) if lost else 0.0
    return [
        f"warning: the flow tokens of {name} lose {share:.0%} of the motion ({figures[name][DEMONSTRATIONS]} "
        f"demonstrations), more than {ALARM_RATIO} times the mean of {', '.join(lost)}, {mean:.0%}: is the "
        f"flow of {name} right, and are its demonstrations like the others'?"
        for name, share in lost.items()
        if share > ALARM_RATIO * mean
    ]


def enlarge(flow: np.ndarray, size: int) -> np.ndarray:
    """Repeat cells: [T, c, c, 2] -> [T, size, size, 2]."""
    index = np.arange(size) * flow.shape[1] // size
    return flow[:, index][:, :, index]
