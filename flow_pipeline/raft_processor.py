"""Stage `flow`: optical flow from each step to k steps later, agentview, by one of three backends; and RAFT itself.

`sim` (sim_flow.py) is exact, from simulator states; `dis_chain` (dis_flow.py) follows OpenCV's DIS from frame to frame;
`raft` is torchvision's raft_large.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import check
from configs.slices import FlowSlice
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem, Episode, EpisodeId, StageContext
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sim.pool import run_jobs
from flow_pipeline.dis_flow import DisEstimator
from flow_pipeline.estimator import FlowEstimator, policy_frames
from flow_pipeline.flow_field import STORED_CELLS, EpisodeFlow, FlowField, cell_means, inside, k_effective, save_flow
from flow_pipeline.sim_flow import SimEstimator

RAFT_MIN_SIZE = 128  # its coarsest correlation volume needs 16 cells of 8 pixels
RAFT_BATCH = 8


# ------------------------------------------------------------------ the stage


def run_flow(config: FlowSlice, context: StageContext) -> list[str]:
    """Stage `flow`: regenerate -> flow.npz. Finished episodes of an interrupted attempt are kept."""
    check(config.backend in ("sim", "raft", "dis_chain"), f"flow.backend={config.backend!r} was not resolved")
    folder = context.inputs["regenerate"]
    parts = context.work / "parts"
    parts.mkdir(exist_ok=True)
    with contextlib.closing(Hdf5Source(folder, config.subset)) as source:
        jobs = [_Job(e, parts / (str(e).replace("/", "_") + ".npy")) for e in source.list()]
    run_jobs(jobs, partial(_Worker, config, folder), _workers(config), context, lambda job: str(job.episode))
    save_flow(context.work / "flow.npz", {job.episode: job.load(config.k) for job in jobs}, _manifest(config))
    return ["flow.npz"]


def _workers(config: FlowSlice) -> int:
    """A device serves one network best; on cores alone, each process has a network and a thread."""
    if config.backend != "raft":
        return config.workers
    import torch

    return 1 if torch.cuda.is_available() else config.workers


@dataclass(frozen=True)
class _Job:
    """One episode."""

    episode: EpisodeId
    part: Path  # float16 [T, STORED_CELLS, STORED_CELLS, 2]

    @property
    def done(self) -> bool:
        return self.part.exists()

    def save(self, flow: np.ndarray) -> None:
        aside = self.part.with_suffix(".part")
        with aside.open("wb") as file:
            np.save(file, flow, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.part)

    def load(self, k: int) -> EpisodeFlow:
        flow = np.load(self.part, allow_pickle=False)
        return EpisodeFlow(flow, k_effective(len(flow), k))


class _Worker:
    """Estimates the flow of episodes; keeps the simulator or the network between them."""

    def __init__(self, config: FlowSlice, folder: Path) -> None:
        self._source = Hdf5Source(folder, config.subset)
        self._estimator = make_estimator(config)

    def run(self, job: _Job) -> None:
        fields = self._estimator.episode(self._source.open(job.episode))
        job.save(np.stack([cell_means(field).astype(np.float16) for field in fields]))

    def close(self) -> None:
        self._estimator.close()
        self._source.close()


def _manifest(config: FlowSlice) -> dict[str, Any]:
    weights = hashlib.sha256(Path(config.raft_weights).read_bytes()).hexdigest() if config.raft_weights else "default"
    return {
        "backend": config.backend,
        "k": config.k,
        "camera": AGENTVIEW,
        "frame": "rot180",
        "unit": "pixels of a 256 x 256 image",
        "cells": STORED_CELLS,
        **({"raft_weights": weights} if config.backend == "raft" else {}),
    }


def make_estimator(config: FlowSlice, camera: str = AGENTVIEW) -> FlowEstimator:
    """The backend that `config` names, for one of CAMERAS; the stage only looks at AGENTVIEW."""
    match config.backend:
        case "sim":
            return SimEstimator(config.env, config.k, camera)
        case "raft":
            return RaftEstimator(config.raft_weights, config.k, camera)
        case _:
            return DisEstimator(config.k, camera)


# ------------------------------------------------------------------ raft


class RaftEstimator:
    """torchvision's raft_large. weights: path of a state dict; empty for torchvision's own (its cache or download)."""

    def __init__(self, weights: str, k: int, camera: str) -> None:
        import torch
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

        self._k, self._camera = k, camera
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = raft_large(weights=None if weights else Raft_Large_Weights.DEFAULT, progress=False)
            if weights:
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # missing; of another model; of another format
            raise EnvironmentProblem(
                f"no RAFT weights: {weights or 'the download'} failed ({error}). "
                "Set flow.raft_weights=<path of raft_large's state dict>, or flow.backend=sim or dis_chain"
            ) from error
        self._model = model.eval().to(self._device)
        self._provenance = f"raft_large {weights or Raft_Large_Weights.DEFAULT}"

    def episode(self, episode: Episode) -> Iterator[FlowField]:
        """T fields, ROT180."""
        return self.estimate(policy_frames(episode, self._camera))

    def close(self) -> None:
        """Nothing outlives it."""

    def estimate(self, frames: np.ndarray) -> Iterator[FlowField]:
        """frames: uint8 [T, H, W, 3]. Yields T fields in the frame of the images; valid where targets lie inside."""
        ahead = k_effective(len(frames), self._k).astype(int)
        for start in range(0, len(frames), RAFT_BATCH):
            here = np.arange(start, min(start + RAFT_BATCH, len(frames)))
            for flow in self._pairs(frames[here], frames[here + ahead[here]]):
                within = _target_inside(flow)
                yield FlowField(flow, within, ~within, self._provenance)

    def _pairs(self, first: np.ndarray, later: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] twice -> float32 [B, H, W, 2] in pixels of the input size."""
        import torch
        from torch.nn.functional import interpolate

        height, width = first.shape[1:3]
        size = tuple(max(RAFT_MIN_SIZE, round(v / 8) * 8) for v in (height, width))
        tensors = [torch.from_numpy(x).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (first, later)]
        if size != (height, width):
            tensors = [interpolate(x, size, mode="bilinear", antialias=True) for x in tensors]
        with torch.inference_mode():
            flow = self._model(*tensors)[-1]  # [B, 2, H', W'], the last refinement
            if size != (height, width):
                flow = interpolate(flow, (height, width), mode="bilinear", antialias=True)
        scale = np.array([width / size[1], height / size[0]], np.float32)
        return flow.permute(0, 2, 3, 1).float().cpu().numpy() * scale


def _target_inside(flow: np.ndarray) -> np.ndarray:
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return inside(flow + np.stack([columns, rows], -1), flow.shape)
