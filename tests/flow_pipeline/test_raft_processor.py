"""Backends, the reduced form and the file: shapes, scale, the horizon at the end, equal bytes, torn files."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Subset
from configs.data import EnvConfig
from configs.slices import FlowSlice
from data_pipeline.contract import EnvironmentProblem, Episode, EpisodeId, StageContext, StageFailed
from data_pipeline.packed import read_packed, write_packed
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


@pytest.mark.parametrize("lost", [("flow", "k_effective"), ("flow",), ("k_effective",)])
def test_an_episode_that_is_lost_from_the_file_is_named(tmp_path: Path, lost: tuple[str, ...]) -> None:
    path, other = tmp_path / "flow.npz", EpisodeId(Subset.GOAL, 7, 3)
    flow = EpisodeFlow(np.zeros((5, 32, 32, 2), np.float16), k_effective(5, 2))
    save_flow(path, {EPISODE: flow, other: flow}, {"k": 2})
    manifest, arrays = read_packed(path, "")
    write_packed(path, manifest, {n: a for n, a in arrays.items() if n not in {f"{other}/{part}" for part in lost}})
    with pytest.raises(
        EnvironmentProblem, match=r"flow\.npz is damaged \('goal/07/003/.* is missing\).*preprocess_flow"
    ):
        load_flow(path)


def test_the_stage_on_recorded_pictures_is_the_same_with_two_processes(tmp_path: Path) -> None:
    demos = write_synthetic_subset(tmp_path / "demos", Subset.GOAL, tasks=(7,), demos=2, steps=12, size=64)
    for workers in (1, 2):
        (work := tmp_path / str(workers)).mkdir()
        config = replace(stage_config(), workers=workers)
        assert run_flow(config, StageContext(work, {"regenerate": demos})) == ["flow.npz"]
    assert (tmp_path / "1" / "flow.npz").read_bytes() == (tmp_path / "2" / "flow.npz").read_bytes()
    flows, manifest = load_flow(tmp_path / "1" / "flow.npz")
    assert manifest["backend"] == "dis_chain"
    assert [f.flow.shape for f in flows.values()] == [(12, 32, 32, 2)] * 2
    assert np.abs(next(iter(flows.values())).flow[0]).max() > 1


def stage_config(k: int = 4) -> FlowSlice:
    return FlowSlice(Subset.GOAL, "dis_chain", k, EnvConfig(assets="builtin"))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e6])
def test_flow_that_is_no_number_is_refused_with_the_episode_and_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    class Estimator:
        def episode(self, episode: Episode) -> Iterator[FlowField]:
            for step in range(episode.num_steps):
                flow = np.zeros((64, 64, 2), np.float32)
                if (episode.id.demo, step) == (1, 3):
                    flow[5, 5] = wrong
                yield FlowField(flow, valid := np.ones((64, 64), bool), ~valid, "test")

        def close(self) -> None: ...

    monkeypatch.setattr("flow_pipeline.raft_processor.make_estimator", lambda config: Estimator())
    demos = write_synthetic_subset(tmp_path / "demos", Subset.GOAL, tasks=(7,), demos=2, steps=6, size=32)
    with pytest.raises(StageFailed, match=r"goal/07/001 by backend dis_chain .* 1 of 6 steps, step 3 first"):
        run_flow(stage_config(), StageContext(tmp_path, {"regenerate": demos}))
    assert [part.name for part in (tmp_path / "parts").iterdir()] == ["goal_07_000.npy"]
    assert not (tmp_path / "flow.npz").exists()


def killed_after_two(demos: Path, work: Path) -> None:
    """The stage, in a process that the machine takes away."""

    def report(done: int, total: int, note: str) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run_flow(stage_config(), StageContext(work, {"regenerate": demos}, report))


def test_a_killed_stage_goes_on_with_the_episodes_that_are_left(tmp_path: Path) -> None:
    demos = write_synthetic_subset(tmp_path / "demos", Subset.GOAL, tasks=(7,), demos=4, steps=6, size=32)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for work in (whole, killed):
        work.mkdir()
    run_flow(stage_config(), StageContext(whole, {"regenerate": demos}))
    child = multiprocessing.get_context("spawn").Process(target=killed_after_two, args=(demos, killed))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    kept = {part: part.stat().st_mtime_ns for part in (killed / "parts").iterdir()}
    assert len(kept) == 2
    (killed / "parts" / "goal_07_003.part").write_bytes(b"half")  # what a kill within an episode leaves
    context = StageContext(killed, {"regenerate": demos})
    run_flow(stage_config(), context)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert context.remarks["flow"]["frames"] == 12
    assert (killed / "flow.npz").read_bytes() == (whole / "flow.npz").read_bytes()


def test_pictures_of_other_sizes_and_episodes_shorter_than_the_horizon(tmp_path: Path) -> None:
    demos = tmp_path / "demos"
    write_synthetic_subset(demos, Subset.GOAL, tasks=(0,), demos=1, steps=3, size=64)
    write_synthetic_subset(demos, Subset.GOAL, tasks=(1,), demos=1, steps=1, size=40)
    work = tmp_path / "work"
    work.mkdir()
    run_flow(stage_config(k=8), StageContext(work, {"regenerate": demos}))
    three, one = load_flow(work / "flow.npz")[0].values()
    assert (three.flow.shape, one.flow.shape) == ((3, 32, 32, 2), (1, 32, 32, 2))
    assert (three.k_effective.tolist(), one.k_effective.tolist()) == ([2, 1, 0], [0])
    assert not one.flow.any()
    assert not three.flow[2].any()
    assert three.flow[0].any()
