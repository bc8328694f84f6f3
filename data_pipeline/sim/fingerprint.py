"""What a picture and a trajectory depend on besides the task: results of different fingerprints are never merged."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from configs.data import EnvConfig
from data_pipeline.sim.assets import AssetSet

_PACKAGES = ("mujoco", "robosuite", "hf-libero", "bddl")


def fingerprint(config: EnvConfig, assets: AssetSet, device: str) -> dict[str, Any]:
    """Plain JSON values. device: the GL strings of whoever draws."""
    return {
        "assets": assets.kind,
        "assets_digest": assets.digest,
        **{name.replace("-", "_"): version(name) for name in _PACKAGES},
        "renderer": device,
        "look": config.look.value,
        "stepping": config.stepping.value,
        "resolution": config.resolution,
    }
