"""Every backend of optical flow against the exact one on expert demonstrations, and how fast each is.

Scores: end-point error (EPE) over all pixels and over those that move, and outliers (more than 3 px and more than 5 %
off), in pixels of the image, beside no motion (`zero`) and one DIS estimate from step t straight to t + k
(`dis_direct`). `sim` is the truth itself; its row says what the later picture, carried back by it, differs from the
first by, as a share of what the picture left as it is differs by. RAFT is scored with `--raft_weights` alone; without,
its rows say so. One JSON line per row, then a table.

usage: python benchmarks/bench_flow.py [--quick] [--raft_model raft_large --raft_weights PATH] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", LP_NUM_THREADS="1")

import cv2
import numpy as np

from benchmarks.flow_demos import TASKS, cut, demo_in, env_of, make_demos
from benchmarks.flow_speed import cases, speeds
from benchmarks.machine import keep
from configs.choices import RaftModel, Subset
from configs.slices import RaftSlice
from data_pipeline.contract import CAMERAS, POINT_GRID
from data_pipeline.scene import Moment
from experiment.devices import cuda_devices
from flow_pipeline.dis_flow import dis_chain
from flow_pipeline.estimator import policy_frames
from flow_pipeline.flow_field import FlowField
from flow_pipeline.sim_flow import sim_chain

SCORED_STEPS, EVERY = 48, 4  # of each demonstration, from its first third on
MOVING_PX = 0.75  # at 256 px scale, as the tokens' static gate has it

Estimate = Callable[[np.ndarray, int, np.ndarray], Iterator[np.ndarray]]
"""(frames uint8 [T, H, W, 3], k, steps) -> flow float32 [H, W, 2] from each of the steps to k later."""


@dataclass(frozen=True)
class Window:
    """A stretch of one demonstration as one camera saw it, and the truth about it. ROT180."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    moments: list[Moment]  # T
    steps: np.ndarray  # those scored

    def truth(self, step: int, k: int) -> FlowField:
        """Exact flow from a step to k later."""
        return next(sim_chain([self.moments[step], self.moments[step + k]], 1))


def windows_of(folder: Path, resolution: int, camera: str, subsets: Sequence[Subset], longest: int) -> list[Window]:
    """One per demonstration; `longest` is the largest k."""
    from data_pipeline.sim.features import Replayer

    found: list[Window] = []
    with Replayer(env_of(resolution)) as replayer:
        for subset in subsets:
            whole = demo_in(folder, resolution, subset)
            count = SCORED_STEPS + longest
            part = cut(whole, max(0, min(whole.num_steps // 3, whole.num_steps - count)), count)
            steps = np.arange(0, min(SCORED_STEPS, part.num_steps - longest), EVERY)
            found.append(Window(policy_frames(part, camera), list(replayer.moments(part, camera)), steps))
    return found


# ------------------------------------------------------------------ backends


def zero(frames: np.ndarray, k: int, steps: np.ndarray) -> Iterator[np.ndarray]:
    """No motion."""
    return (np.zeros((*frames.shape[1:3], 2), np.float32) for _ in steps)


def direct(frames: np.ndarray, k: int, steps: np.ndarray) -> Iterator[np.ndarray]:
    """One DIS estimate from t to t + k: a chain of one link."""
    return (next(dis_chain(frames[[t, t + k]], 1)).flow_px for t in steps)


def chained(frames: np.ndarray, k: int, steps: np.ndarray) -> Iterator[np.ndarray]:
    """The backend `dis_chain`."""
    wanted = set(steps.tolist())
    return (field.flow_px for t, field in enumerate(dis_chain(frames, k)) if t in wanted)


def raft(model: RaftModel, weights: str) -> Estimate:
    """The backend `raft`. Imports torch, which must come before the simulator's software GL."""
    from flow_pipeline.raft_flow import load_raft

    network = load_raft(RaftSlice(model, bf16=True, weights="", path=weights))
    return lambda frames, k, steps: (network.flow(frames[[t]], frames[[t + k]])[0] for t in steps)


# ------------------------------------------------------------------ scores


def score(windows: Sequence[Window], k: int, estimate: Estimate) -> dict[str, float]:
    """Figures of one backend."""
    sums = np.zeros(8)
    for window in windows:
        for step, flow in zip(window.steps, estimate(window.frames, k, window.steps), strict=True):
            sums += _errors(flow, window.truth(step, k))
    everything, moving, visible, error, error_moving, error_visible, out, out_moving = sums
    return {
        "epe_all": round(error / everything, 3),
        "epe_moving": round(error_moving / moving, 3),
        "epe_moving_visible": round(error_visible / visible, 3),
        "outliers_all": round(out / everything, 4),
        "outliers_moving": round(out_moving / moving, 4),
    }


def _errors(flow: np.ndarray, truth: FlowField) -> np.ndarray:
    """Sums over pixels, in the order in which `score` takes them apart."""
    error, length = np.linalg.norm(flow - truth.flow_px, axis=-1), np.linalg.norm(truth.flow_px, axis=-1)
    moving = truth.valid & (length >= MOVING_PX * flow.shape[1] / POINT_GRID)
    masks = (truth.valid, moving, moving & ~truth.occluded)
    outlier = (error > 3) & (error > 0.05 * length)
    return np.array(
        [*(m.sum() for m in masks), *(error[m].sum() for m in masks), *(outlier[m].sum() for m in masks[:2])]
    )


def photometric(windows: Sequence[Window], k: int) -> float:
    """Over visible moving pixels: difference of the picture carried back by exact flow / of the one left as it is."""
    carried = left = 0.0
    for window in windows:
        height, width = window.frames.shape[1:3]
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        for step in window.steps:
            truth = window.truth(step, k)
            first, later = (window.frames[t].astype(np.float32) for t in (step, step + k))
            back = cv2.remap(later, columns + truth.flow_px[..., 0], rows + truth.flow_px[..., 1], cv2.INTER_LINEAR)
            seen = truth.valid & ~truth.occluded & (np.linalg.norm(truth.flow_px, axis=-1) > 2)
            carried += float(np.abs(back - first)[seen].sum())
            left += float(np.abs(later - first)[seen].sum())
    return round(carried / left, 3) if left else 0.0


def scores(
    folder: Path, resolutions: list[int], horizons: list[int], subsets: list[Subset], backends: dict[str, Estimate]
) -> Iterator[dict[str, Any]]:
    """One row per resolution, camera, horizon and backend."""
    for resolution in resolutions:
        for camera in CAMERAS:
            windows = windows_of(folder, resolution, camera, subsets, max(horizons))
            for k in horizons:
                place = {"resolution": resolution, "camera": camera, "k": k}
                for backend, estimate in backends.items():
                    yield {**place, "backend": backend, **score(windows, k, estimate)}
                yield {**place, "backend": "sim", "photometric_ratio": photometric(windows, k)}


# ------------------------------------------------------------------ tables


def score_table(rows: list[dict[str, Any]], horizons: list[int]) -> list[str]:
    """EPE of moving pixels (of all), share of outliers among the moving ones, per horizon."""
    lines: list[str] = []
    for place in dict.fromkeys((row["resolution"], row["camera"]) for row in rows if "k" in row):
        here = [row for row in rows if (row.get("resolution"), row.get("camera")) == place]
        lines += ["", f"{place[0]} px, {place[1]}: EPE moving (all) px, outliers moving"]
        lines.append(f"{'':12}" + "".join(f"{'k=' + str(k):>26}" for k in horizons))
        for backend in dict.fromkeys(row["backend"] for row in here):
            cells = [_cell(row) for row in here if row["backend"] == backend]
            lines.append(f"{backend:12}" + "".join(f"{cell:>26}" for cell in cells))
    return [*lines, *(f"{row['backend']:12}  {row['score']}" for row in rows if "score" in row)]


def _cell(row: dict[str, Any]) -> str:
    if "photometric_ratio" in row:
        return f"photometric {row['photometric_ratio']:.2f}"
    return f"{row['epe_moving']:.2f} ({row['epe_all']:.2f}) {row['outliers_moving']:.0%}"


def speed_table(rows: list[dict[str, Any]]) -> list[str]:
    """Frames per second."""
    lines = ["", f"{'':32}{'processes':>10}{'frames/s':>10}{'CPU ms/frame':>14}"]
    for row in rows:
        said = " ".join(str(row[key]) for key in ("device", "number_format") if key in row)
        name = f"{row['backend']} {row['resolution']} px {said}{' (random)' if 'weights' in row else ''}"
        lines.append(f"{name:<38}{row['processes']:>4}{row['frames_per_s']:>10}{row['cpu_ms_per_frame']:>14}")
    return lines


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one demonstration at 128 px, k = 1 and 8")
    parser.add_argument("--raft_model", default=RaftModel.LARGE.value, choices=[model.value for model in RaftModel])
    parser.add_argument("--raft_weights", default="", help="path of that model's state dict")
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    options = parser.parse_args(argv)
    resolutions, horizons, subsets = [128, 256], [1, 5, 8, 16], list(TASKS)
    if options.quick:
        resolutions, horizons, subsets = [128], [1, 8], subsets[:1]
    backends: dict[str, Estimate] = {"zero": zero, "dis_direct": direct, "dis_chain": chained}
    given = {RaftModel(options.raft_model): options.raft_weights} if options.raft_weights else {}
    backends |= {model.value: raft(model, weights) for model, weights in given.items()}
    kept: dict[str, list[dict[str, Any]]] = {"flow_scores": [], "flow_speed": []}

    def tell(benchmark: str, rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            keep({"benchmark": benchmark, **row}, options.out)
            kept[benchmark].append(row)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for resolution in resolutions:
            make_demos(folder, resolution, subsets)
        tell("flow_scores", scores(folder, resolutions, horizons, subsets, backends))
        tell("flow_scores", ({"backend": m.value, "score": "no weights here"} for m in RaftModel if m not in given))
        for resolution in resolutions:
            for case in cases(resolution, given, cuda=cuda_devices() > 0):
                tell("flow_speed", speeds(folder, case))
    print("\n".join([*score_table(kept["flow_scores"], horizons), *speed_table(kept["flow_speed"])]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
