"""Files that are whole or not there: written under another name beside their own, then renamed.

What is resumed after a crash only needs that much. What must survive a power cut as well is synced: the store, the
sidecars, replies that were paid for. Which file it is, its content says: `file_sha256`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """Yields a hidden name beside `path`, with its suffix, to write to; a clean exit renames it onto `path`."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Indented, for people; numbers must be finite where other programs read them."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_synced(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk keep a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole_json(path: Path) -> bool:
    """Whether a JSON file is there and can be read: a power cut can leave an empty one, or half of it."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True
