"""Backends, the reduced form and the file: shapes, scale, the horizon at the end, equal bytes, torn files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from configs.schema import EnvConfig
from configs.slices import FlowSlice
from data_pipeline.contract import EnvironmentProblem, EpisodeId, StageContext
from flow_pipeline.flow_field import EpisodeFlow, FlowField, cell_means, k_effective, load_flow, save_flow
from flow_pipeline.raft_processor import run_flow
from tests.helpers.synthetic import write_synthetic_subset

EPISODE = EpisodeId(Subset.GOAL, 7, 2)


def test_k_effective_shrinks_at_the_end() -> None:
    assert k_effective(6, 4).tolist() == [4, 4, 3, 2, 1, 0]


def test_cell_means_ignore_invalid_pixels_and_scale_to_256() -> None:
    flow = np.zeros((128, 128, 2), np.float32)
    flow[:, :64] = [3, -1]
    valid = np.ones((128, 128), bool)
    valid[:64] = False
    flow[:64] = 1000
    means = cell_means(FlowField(flow, valid, ~valid, "test"), 4)
    np.testing.assert_allclose(means[2:, :2], np.broadcast_to([6, -2], (2, 2, 2)), rtol=1e-6)
    assert not means[:2].any()
    assert not means[2:, 2:].any()


def test_flow_file_round_trip_equal_bytes_and_damage(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    flow = EpisodeFlow(rng.normal(size=(5, 32, 32, 2)).astype(np.float16), k_effective(5, 2))
    for name in ("a.npz", "b.npz"):
        save_flow(tmp_path / name, {EPISODE: flow}, {"backend": "sim", "k": 2})
    content = (tmp_path / "a.npz").read_bytes()
    assert content == (tmp_path / "b.npz").read_bytes()
    episodes, manifest = load_flow(tmp_path / "a.npz")
    np.testing.assert_array_equal(episodes[EPISODE].flow, flow.flow)
    np.testing.assert_array_equal(episodes[EPISODE].k_effective, [2, 2, 2, 1, 0])
    assert manifest == {"backend": "sim", "k": 2}
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(EnvironmentProblem, match="damaged"):
        load_flow(tmp_path / "a.npz")
    with pytest.raises(EnvironmentProblem, match="does not exist"):
        load_flow(tmp_path / "c.npz")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_stage_on_recorded_pictures(tmp_path: Path, workers: int) -> None:
    demos = write_synthetic_subset(tmp_path / "demos", Subset.GOAL, tasks=(7,), demos=2, steps=12, size=64)
    work = tmp_path / "work"
    work.mkdir()
    config = FlowSlice(Subset.GOAL, "dis_chain", 4, EnvConfig(assets="builtin"), workers=workers)
    assert run_flow(config, StageContext(work, {"regenerate": demos})) == ["flow.npz"]
    flows, manifest = load_flow(work / "flow.npz")
    assert manifest["backend"] == "dis_chain"
    assert [f.flow.shape for f in flows.values()] == [(12, 32, 32, 2)] * 2
    assert np.abs(next(iter(flows.values())).flow[0]).max() > 1
