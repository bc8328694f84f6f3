"""What a measurement was made on and of: part of every line that a benchmark keeps."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def hardware() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Of this checkout, with `-dirty` where it is changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()


def keep(line: Mapping[str, Any], out: Path | None) -> None:
    """Print a result as one line of JSON, with the machine, its load and the commit; also append it to a file."""
    load = round(os.getloadavg()[0], 1)
    text = json.dumps({**line, "hardware": hardware(), "load_average": load, "commit": commit()})
    print(text)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
