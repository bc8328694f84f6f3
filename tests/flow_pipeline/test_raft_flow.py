"""RAFT's path with random weights: sizes, batches, number formats, and weights that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

# While tests are collected: importing them once software GL is up, in a test, would crash the process.
import torch
from torchvision.models.optical_flow import raft_large, raft_small

from configs.choices import RaftModel
from configs.slices import RaftSlice
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem
from flow_pipeline.raft_flow import RaftEstimator, RaftNetwork, describe, load_raft, number_format

CPU = torch.device("cpu")
CROSS_BATCH_PX = 1e-3
"""How far flow may depend on what else is in its batch: sums in another order, through twelve refinements."""


class Mirror(torch.nn.Module):
    """Answers with the first picture's first two channels, and remembers what it was asked."""

    def forward(self, first: torch.Tensor, later: torch.Tensor) -> list[torch.Tensor]:
        self.size, self.range = tuple(first.shape[-2:]), (float(first.min()), float(first.max()))
        self.autocast = torch.is_autocast_enabled("cpu")
        return [torch.zeros_like(first[:, :2]), first[:, :2]]


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def save_random(path: Path, build=raft_small, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    torch.save(build(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RaftNetwork:
    path = save_random(tmp_path_factory.mktemp("weights") / "small.pth")
    return load_raft(RaftSlice(RaftModel.SMALL, True, "", str(path)))


@pytest.mark.parametrize(
    ("size", "padded"),
    [((128, 128), (128, 128)), ((64, 96), (128, 128)), ((131, 250), (136, 256)), ((256, 256), (256, 256))],
)
def test_pictures_are_padded_to_what_raft_takes_and_unpadded_exactly(size, padded) -> None:
    module = Mirror()
    first = pictures(2, *size)
    flow = RaftNetwork(module, CPU, torch.float32, "mirror").flow(first, first)
    assert module.size == padded
    assert module.range == (-1.0, 1.0)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, first[..., :2] / 127.5 - 1, atol=1e-6)


def test_flow_does_not_depend_on_the_batch_and_repeats_to_the_bit(small: RaftNetwork) -> None:
    frames = pictures(9, 128, 128)
    together = small.flow(frames[:8], frames[1:])
    assert np.abs(together).max() > 100 * CROSS_BATCH_PX
    for i in (0, 7):
        alone = small.flow(frames[i : i + 1], frames[i + 1 : i + 2])
        np.testing.assert_array_equal(alone, small.flow(frames[i : i + 1], frames[i + 1 : i + 2]))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=CROSS_BATCH_PX)


def test_each_step_is_paired_with_the_one_k_later_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror of the later picture shows which it was: its brightness is its number."""
    monkeypatch.setattr("flow_pipeline.raft_flow.BATCH", {"cpu": 4})
    module = Mirror()
    module.forward = lambda first, later: [later[:, :2] - first[:, :2]]
    frames = np.repeat(np.arange(10, dtype=np.uint8), 128 * 128 * 3).reshape(10, 128, 128, 3)
    fields = list(RaftEstimator(RaftNetwork(module, CPU, torch.float32, "numbers"), 3, AGENTVIEW).estimate(frames))
    ahead = [round(float(field.flow_px[5, 5, 0]) * 127.5) for field in fields]
    assert ahead == [3, 3, 3, 3, 3, 3, 3, 2, 1, 0]


def test_what_leaves_the_image_is_occluded() -> None:
    module = Mirror()
    module.forward = lambda first, later: [torch.full_like(first[:, :2], 28.0)]
    network = RaftNetwork(module, CPU, torch.float32, "slide")
    (field, _) = RaftEstimator(network, 1, AGENTVIEW).estimate(pictures(2, 128, 128))
    assert field.valid[:100, :100].all()
    assert not field.valid[100:].any()
    np.testing.assert_array_equal(field.occluded, ~field.valid)


def test_bf16_is_for_cuda_alone_and_is_a_choice() -> None:
    cuda = torch.device("cuda")
    assert number_format(cuda, bf16=True) is torch.bfloat16
    assert number_format(cuda, bf16=False) is torch.float32
    assert number_format(CPU, bf16=True) is torch.float32


def test_autocast_is_on_where_the_format_says_so_and_flow_stays_float32(small: RaftNetwork) -> None:
    module, frames = Mirror(), pictures(2, 128, 128)
    for dtype in (torch.float32, torch.bfloat16):
        RaftNetwork(module, CPU, dtype, "mirror").flow(frames[:1], frames[1:])
        assert module.autocast is (dtype is torch.bfloat16)
    half = RaftNetwork(small.module, CPU, torch.bfloat16, "half").flow(frames[:1], frames[1:])
    assert half.dtype == np.float32
    assert 0 < np.abs(half - small.flow(frames[:1], frames[1:])).max() < 0.1 * np.abs(half).max()


def test_both_networks_load_and_are_described(tmp_path: Path, small: RaftNetwork) -> None:
    large = save_random(tmp_path / "large.pth", raft_large)
    choice = RaftSlice(RaftModel.LARGE, True, "", str(large))
    network, said = load_raft(choice), describe(choice)
    assert not network.module.training
    assert network.provenance == f"raft_large, weights {said['weights'][:12]}"
    assert small.provenance.startswith("raft_small")
    assert {**said, "weights": ""} == {
        "model": "raft_large",
        "weights": "",
        "source": "a file",
        "device": "cpu",
        "number_format": "float32",
    }


def test_weights_of_the_other_network_are_refused_with_the_setting_that_mends_it(tmp_path: Path) -> None:
    path = save_random(tmp_path / "w.pth")
    with pytest.raises(EnvironmentProblem, match=r"weights of raft_small, and .* set flow\.raft_model=raft_small"):
        load_raft(RaftSlice(RaftModel.LARGE, True, "", str(path)))


def test_weights_that_are_none_are_refused_with_the_remedies(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not weights")
    whole = save_random(tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    for name in ("none", "other", "list", "text", "cut", "empty"):
        with pytest.raises(EnvironmentProblem, match=rf"{name}\.pth.*flow\.raft_weights.*flow\.backend=sim"):
            load_raft(RaftSlice(RaftModel.SMALL, True, "", str(tmp_path / f"{name}.pth")))


class Trap:
    """What a pickle may do to who opens it."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Trap()}, "zip.pth")
    Path("plain.pth").write_bytes(pickle.dumps({"x": Trap()}))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(EnvironmentProblem, match="no file of torch weights"):
            load_raft(RaftSlice(RaftModel.SMALL, True, "", name))
    assert not Path("trapped").exists()


def test_weights_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    path = save_random(tmp_path / "w.pth")
    planned = RaftSlice(
        RaftModel.SMALL, True, describe(RaftSlice(RaftModel.SMALL, True, "", str(path)))["weights"], str(path)
    )
    load_raft(planned)
    save_random(path, seed=1)
    with pytest.raises(EnvironmentProblem, match="changed since this run was planned"):
        load_raft(planned)


def test_torchvisions_own_weights_come_from_its_cache_and_a_failed_download_names_the_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *rest, **named) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    own = RaftSlice(RaftModel.SMALL, True, "")
    with pytest.raises(EnvironmentProblem, match=r"raft_small_C_T_V2-.*no route.*flow\.raft_weights"):
        load_raft(own)
    cached = tmp_path / "hub" / "checkpoints" / "raft_small_C_T_V2-01064c6d.pth"
    save_random(cached)
    load_raft(own)
    assert describe(own)["source"] == f"torchvision {cached.name}"
