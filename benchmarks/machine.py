"""What a measurement was made on and of: part of every line that a benchmark keeps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def hardware() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Of this checkout, with `-dirty` where it is changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
