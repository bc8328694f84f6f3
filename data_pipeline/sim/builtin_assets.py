"""The built-in asset set on disk: every file made from the table of figures, published once per machine.

The folder is named by the digest of all its files, so that a changed generator or table makes another folder, and a
folder that exists is complete: it is written aside and renamed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.contract import EnvironmentProblem
from data_pipeline.sim.builtin_arenas import arena_file, texture_files
from data_pipeline.sim.builtin_objects import object_files


def ensure(table: dict[str, Any], cache: Path) -> tuple[Path, str]:
    """(folder, digest) of the set made from `table`, below `cache`. Safe with several processes.

    Raises EnvironmentProblem where the folder cannot be written.
    """
    files = generate(table)
    digest = digest_of(files)
    folder = cache / f"assets-{digest[:16]}"
    if not folder.is_dir():
        try:
            _publish(files, folder)
        except OSError as problem:
            size_mb = sum(map(len, files.values())) / 1e6
            raise EnvironmentProblem(
                f"cannot write the built-in assets ({size_mb:.1f} MB) to {folder}: {problem}; free space there or set "
                "XDG_CACHE_HOME"
            ) from problem
    return folder, digest


def generate(table: dict[str, Any]) -> dict[str, bytes]:
    """Path inside the set -> bytes, sorted by path."""
    files = texture_files(table)
    for name, entry in table["objects"].items():
        files |= object_files(name, entry)
    files |= dict(arena_file(name, entry) for name, entry in table["arenas"].items())
    return dict(sorted(files.items()))


def digest_of(files: dict[str, bytes]) -> str:
    """sha256 over paths and contents."""
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _publish(files: dict[str, bytes], folder: Path) -> None:
    """Write aside, rename into place; if another process was faster, its folder holds the same."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for path, content in files.items():
            target = aside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        aside.chmod(0o755)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
