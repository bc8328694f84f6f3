"""Placeholder until the built-in set is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.contract import EnvironmentProblem


def ensure(table: dict[str, Any], source: bytes, cache: Path) -> tuple[Path, str]:
    """Not yet there."""
    raise EnvironmentProblem("the built-in assets are being written; set LIBERO_ASSETS_PATH")
