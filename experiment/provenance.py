"""Which code ran: recorded in every manifest, never compared."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from data_pipeline.whole_files import file_sha256


@lru_cache
def provenance() -> dict[str, str]:
    """The code that ran: git commit (with `+dirty`) and the digest of uv.lock; empty where unknown."""
    root = Path(__file__).resolve().parents[1]
    lock = root / "uv.lock"
    return {"commit": _git_commit(root), "lock": file_sha256(lock)[:16] if lock.exists() else ""}


def _git_commit(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=40", "--exclude=*"]
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # no API key
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env=known
        ).stdout.strip()
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
