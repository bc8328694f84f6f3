"""Stage `flow`: optical flow from each step to k steps later, agentview, by one of three backends.

`raft` (raft_flow.py) is torchvision's RAFT; `sim` (sim_flow.py) is exact, from simulator states; `dis_chain`
(dis_flow.py) follows OpenCV's DIS from frame to frame. All give a FlowField per step; what is kept of it are means over
cells.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import check
from configs.slices import FlowSlice
from data_pipeline.contract import AGENTVIEW, EpisodeId, StageContext, StageFailed
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.sim.pool import run_jobs
from flow_pipeline.dis_flow import DisEstimator
from flow_pipeline.estimator import FlowEstimator
from flow_pipeline.flow_field import STORED_CELLS, EpisodeFlow, cell_means, k_effective, save_flow
from flow_pipeline.raft_flow import RaftEstimator, describe, device, load_raft
from flow_pipeline.sim_flow import SimEstimator

_REMEDY = (
    "try another one (flow.backend=sim, raft or dis_chain), and of raft also flow.raft_bf16=false and other weights"
)


def run_flow(config: FlowSlice, context: StageContext) -> list[str]:
    """Stage `flow`: regenerate -> flow.npz. Finished episodes of an interrupted attempt are kept."""
    check(config.backend in ("sim", "raft", "dis_chain"), f"flow.backend={config.backend!r} was not resolved")
    manifest = _manifest(config)  # before any work: weights that are missing, or changed, end it here
    folder = context.inputs["regenerate"]
    parts = context.work / "parts"
    parts.mkdir(exist_ok=True)
    with contextlib.closing(Hdf5Source(folder, config.subset)) as source:
        jobs = [_Job(e, parts / (str(e).replace("/", "_") + ".npy")) for e in source.list()]
    before, started = {job for job in jobs if job.done}, time.monotonic()
    processes = _workers(config)
    run_jobs(jobs, partial(_Worker, config, folder), processes, context, lambda job: str(job.episode))
    seconds = time.monotonic() - started
    flows = {job.episode: job.load(config.k) for job in jobs}
    frames = sum(len(flows[job.episode].flow) for job in jobs if job not in before)
    context.remarks["flow"] = {"frames": frames, "seconds": round(seconds, 1), "processes": processes}
    save_flow(context.work / "flow.npz", flows, manifest)
    return ["flow.npz"]


def _workers(config: FlowSlice) -> int:
    """A device serves one network best; on cores alone, each process has a network and a thread."""
    return 1 if config.raft is not None and device().type == "cuda" else config.workers


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
        self._source, self._backend = Hdf5Source(folder, config.subset), config.backend
        self._estimator = make_estimator(config)

    def run(self, job: _Job) -> None:
        """Raises StageFailed where the backend estimates what is no number, or too large for one."""
        fields = self._estimator.episode(self._source.open(job.episode))
        flow = np.stack([cell_means(field) for field in fields])
        wrong = np.flatnonzero(~(np.abs(flow) <= np.finfo(np.float16).max).all((1, 2, 3)))
        if len(wrong):
            raise StageFailed(
                f"flow of {job.episode} by backend {self._backend} is not finite at {len(wrong)} of {len(flow)} steps, "
                f"step {wrong[0]} first; {_REMEDY}"
            )
        job.save(flow.astype(np.float16))

    def close(self) -> None:
        self._estimator.close()
        self._source.close()


def _manifest(config: FlowSlice) -> dict[str, Any]:
    return {
        "backend": config.backend,
        "k": config.k,
        "camera": AGENTVIEW,
        "frame": "rot180",
        "unit": "pixels of a 256 x 256 image",
        "cells": STORED_CELLS,
        **({"raft": describe(config.raft)} if config.raft else {}),
    }


def make_estimator(config: FlowSlice, camera: str = AGENTVIEW) -> FlowEstimator:
    """The backend that `config` names, for one of CAMERAS; the stage only looks at AGENTVIEW."""
    if config.raft is not None:
        return RaftEstimator(load_raft(config.raft), config.k, camera)
    if config.backend == "sim":
        return SimEstimator(config.env, config.k, camera)
    return DisEstimator(config.k, camera)
