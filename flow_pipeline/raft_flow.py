"""Backend `raft`: torchvision's RAFT (Teed and Deng, 2020) on pairs of recorded pictures, k steps apart.

The weights are torchvision's own, downloaded once, or any state dict of the same network; which ones is recorded by the
sha256 of their file.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.choices import RaftModel
from configs.slices import RaftSlice
from data_pipeline.contract import EnvironmentProblem, Episode
from data_pipeline.whole_files import file_sha256
from flow_pipeline.estimator import policy_frames, stays_inside
from flow_pipeline.flow_field import FlowField, k_effective

if TYPE_CHECKING:  # torch takes seconds to import; the other backends never need it
    import torch

STRIDE = 8  # of the network's features
MIN_SIZE = 128  # its coarsest correlation volume needs 16 cells of 8 pixels
BATCH = {"cuda": 32, "cpu": 8}
TORCHVISION_WEIGHTS = {RaftModel.LARGE: "C_T_SKHT_V2", RaftModel.SMALL: "C_T_V2"}
"""Pinned, because torchvision's DEFAULT may become another. A change here moves results."""


@dataclass(frozen=True)
class RaftNetwork:
    """A network, ready to run on `device`."""

    module: torch.nn.Module
    device: torch.device
    dtype: torch.dtype  # of matrix products and convolutions; sums of flow stay in float32
    provenance: str

    def flow(self, first: np.ndarray, later: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] twice -> float32 [B, H, W, 2] in pixels, any H and W."""
        import torch
        from torch.nn.functional import pad

        height, width = first.shape[1:3]
        left, right, top, bottom = border = (*_border(width), *_border(height))
        stacked = torch.from_numpy(np.concatenate([first, later])).to(self.device).permute(0, 3, 1, 2)
        unit = pad(stacked.float() / 127.5 - 1, border, mode="replicate")  # [2B, 3, H', W'] in [-1, 1]
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
        with torch.inference_mode(), autocast:
            flow = self.module(*unit.chunk(2))[-1]  # [B, 2, H', W'], the last refinement
        flow = flow[..., top : flow.shape[-2] - bottom, left : flow.shape[-1] - right]
        return flow.permute(0, 2, 3, 1).float().cpu().numpy()


def _border(size: int) -> tuple[int, int]:
    """Pixels to add before and after, so that the network takes the size: a multiple of 8, at least 128."""
    missing = max(MIN_SIZE, -(-size // STRIDE) * STRIDE) - size
    return missing // 2, missing - missing // 2


def number_format(device: torch.device, *, bf16: bool) -> torch.dtype:
    """bfloat16 on a CUDA device where it is wanted, else float32."""
    import torch

    return torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32


class RaftEstimator:
    """RAFT from each step's picture to the one k steps later, in batches."""

    def __init__(self, network: RaftNetwork, k: int, camera: str) -> None:
        self._network, self._k, self._camera = network, k, camera

    def episode(self, episode: Episode) -> Iterator[FlowField]:
        """T fields, ROT180."""
        return self.estimate(policy_frames(episode, self._camera))

    def close(self) -> None:
        """Nothing outlives it."""

    def estimate(self, frames: np.ndarray) -> Iterator[FlowField]:
        """frames: uint8 [T, H, W, 3]. Yields T fields in the frame of the images.

        Valid where targets lie inside. RAFT does not say what is hidden: occluded is only what leaves the image.
        """
        later = np.arange(len(frames)) + k_effective(len(frames), self._k)
        batch = BATCH[self._network.device.type]
        for start in range(0, len(frames), batch):
            for flow in self._network.flow(frames[start : start + batch], frames[later[start : start + batch]]):
                inside = stays_inside(flow)
                yield FlowField(flow, inside, ~inside, self._network.provenance)


# ------------------------------------------------------------------ weights


def load_raft(choice: RaftSlice) -> RaftNetwork:
    """The network with its weights, on the CUDA device if there is one.

    Raises EnvironmentProblem where the weights are missing, damaged, of another network, or not those of the plan.
    """
    path, digest = _weights_file(choice)
    module = _build(choice.model)
    module.load_state_dict(_state(path, choice.model, module))
    here = device()
    provenance = f"{choice.model.value}, weights {digest[:12]}"
    return RaftNetwork(module.eval().to(here), here, number_format(here, bf16=choice.bf16), provenance)


def describe(choice: RaftSlice) -> dict[str, str]:
    """For the manifest: the network, the sha256 of its weights and where they are from, and what computes."""
    path, digest = _weights_file(choice)
    here = device()
    return {
        "model": choice.model.value,
        "weights": digest,
        "source": "a file" if choice.path else f"torchvision {path.name}",
        "device": here.type,
        "number_format": str(number_format(here, bf16=choice.bf16)).removeprefix("torch."),
    }


def device() -> torch.device:
    """The CUDA device if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _weights_file(choice: RaftSlice) -> tuple[Path, str]:
    """Where the weights lie, after a download where that is needed, and the sha256 of the file."""
    path = Path(choice.path) if choice.path else _downloaded(choice.model)
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise EnvironmentProblem(f"RAFT weights {path} cannot be read ({error}); {_remedy(choice.model)}") from error
    if choice.weights and digest != choice.weights:
        raise EnvironmentProblem(
            f"{path} has changed since this run was planned (sha256 {digest[:12]}, not {choice.weights[:12]}); start "
            "the same command again"
        )
    return path, digest


def _downloaded(model: RaftModel) -> Path:
    """The weights that torchvision publishes, in torch's cache. Their name holds the start of their digest."""
    import torch
    from torchvision.models import get_model_weights

    url: str = get_model_weights(model.value)[TORCHVISION_WEIGHTS[model]].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:  # no network; another digest than the name says
            raise EnvironmentProblem(
                f"no RAFT weights: the download of {url} failed ({error}); {_remedy(model)}"
            ) from (error)
    return path


def _state(path: Path, model: RaftModel, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict in a file, which fits the network."""
    import torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentProblem(f"{path} is no file of torch weights ({reason}); {_remedy(model)}") from error
    if _shapes(state) == _shapes(module.state_dict()):
        return state
    with torch.device("meta"):  # shapes alone
        others = [m for m in RaftModel if m is not model and _shapes(state) == _shapes(_build(m).state_dict())]
    if others:
        raise EnvironmentProblem(
            f"{path} holds weights of {others[0].value}, and flow.raft_model is {model.value}; set "
            f"flow.raft_model={others[0].value}, or name {model.value}'s file"
        )
    raise EnvironmentProblem(
        f"{path} holds no state dict of torchvision's {model.value} (the authors' own files name their layers "
        f"otherwise); {_remedy(model)}"
    )


def _shapes(state: Any) -> dict[str, tuple[int, ...]] | None:
    """Name -> shape; None for what is no state dict."""
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        return None
    return {name: tuple(value.shape) for name, value in state.items()}


def _build(model: RaftModel) -> torch.nn.Module:
    from torchvision.models import get_model

    return get_model(model.value, weights=None)


def _remedy(model: RaftModel) -> str:
    return (
        f"set flow.raft_weights=<path of {model.value}'s state dict, as torchvision publishes it>, or use "
        "flow.backend=sim (exact, from simulator states) or flow.backend=dis_chain (no weights needed)"
    )
