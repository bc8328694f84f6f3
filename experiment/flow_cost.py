"""What the stages of optical flow will cost, for `--dry-run`: frames, time, disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from configs.slices import FlowSlice
from experiment.devices import cuda_devices
from experiment.progress import seconds_text
from experiment.rewording import demos_behind
from experiment.stages import StageNode
from experiment.store import Manifest, Store

STAGE = "flow"
TYPICAL_STEPS = 150  # of a demonstration after regeneration, for estimates before there are any
TYPICAL_MS = {  # of one core per frame at 128 and 256 px, roughly; benchmarks/bench_flow.py measures it
    "sim": (5.0, 9.0),
    "dis_chain": (18.0, 28.0),
    "raft_large": (156.0, 700.0),
    "raft_small": (49.0, 220.0),
}


def flow_costs(store: Store, nodes: Sequence[StageNode], finished: Collection[str]) -> list[str]:
    """One line per stage that is to run, and their sum."""
    waiting = [node for node in nodes if node.stage == STAGE and node.key not in finished and not node.is_stored]
    if not waiting:
        return []
    from flow_pipeline.flow_field import BYTES_PER_STEP  # OpenCV: only where there is flow

    earlier = [manifest for _, manifest in store.manifests(STAGE)]
    lines: list[str] = []
    total_frames, total_s = 0, 0.0
    for node in waiting:
        config = node.spec.build_config()
        assert isinstance(config, FlowSlice)
        frames, counted = _frames(store, node)
        ms, source = _ms_per_frame(node, config, earlier)
        total_frames, total_s = total_frames + frames, total_s + frames * ms / 1000
        speed = (
            f"{1000 / ms:.1f} frames/s per process ({source})" if ms else "its speed on this device is not known yet"
        )
        lines.append(f"{node.label}: {_backend(config)}, {counted}; {speed}")
    time = f"about {seconds_text(total_s)} of one process" if total_s else "time not known yet"
    return [
        *lines,
        f"flow, together: {total_frames} frames, {time}; {total_frames * BYTES_PER_STEP / 1e6:.0f} MB on disk at most "
        f"({BYTES_PER_STEP} bytes per frame: means over cells, no full flow)",
    ]


def _backend(config: FlowSlice) -> str:
    return config.raft.model.value if config.raft else config.backend


def _frames(store: Store, node: StageNode) -> tuple[int, str]:
    """How many, and in words: counted where they are there, else estimated."""
    data = node.inputs["regenerate"]
    folder = store.entry(data.stage, data.key)
    found = next(iter(folder.glob("*_metainfo.json")), None)
    if found is not None:
        from data_pipeline.metainfo import read_metainfo

        kept = [v for demos in read_metainfo(found).values() for v in demos.values() if v.dropped is None]
        frames = sum(verdict.steps for verdict in kept)
        return frames, f"{frames} frames"
    demos = demos_behind(node)
    return demos * TYPICAL_STEPS, f"about {demos * TYPICAL_STEPS} frames ({demos} demonstrations not made yet)"


def _ms_per_frame(node: StageNode, config: FlowSlice, earlier: Sequence[Manifest]) -> tuple[float, str]:
    """Of one process: as the newest such stage here took, else as benchmarked on a core; 0 where neither tells."""
    wanted = _comparable(node.spec.key_config)
    for manifest in earlier:
        done = manifest.remarks.get(STAGE, {})
        if done.get("frames") and _comparable(manifest.config) == wanted:
            return 1000 * done["seconds"] * done["processes"] / done["frames"], "measured here"
    if config.raft is not None and cuda_devices():
        return 0.0, ""
    small, large = TYPICAL_MS[_backend(config)]
    resolution = config.env.resolution
    return (small, "typical") if resolution <= 128 else (large * (resolution / 256) ** 2, "typical")


def _comparable(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides a frame's cost."""
    return tuple(config.get(name) for name in ("backend", "k", "raft", "env"))
