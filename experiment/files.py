"""The store's files: their digests, links instead of copies, synced folders, disk errors in words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.contract import EnvironmentProblem
from data_pipeline.whole_files import file_sha256, sync
from experiment.stages import digest

_ENVIRONMENT_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path -> {size, sha256} of every file below a folder, sorted."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): describe_file(p) for p in paths}


def output_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One digest for a set of files: names and contents, nothing else."""
    return digest({name: info["sha256"] for name, info in files.items()})


def link_tree(source: Path, target: Path, *, copy_below: int = 0) -> None:
    """Hard-link a file or a folder's files to `target` (which must not exist); copy across devices.

    Files smaller than `copy_below` bytes are always copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        for child in sorted(source.iterdir()):
            link_tree(child, target / child.name, copy_below=copy_below)
        return
    if source.stat().st_size >= copy_below:
        try:
            os.link(source, target)
        except OSError as problem:
            if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
        else:
            return
    shutil.copyfile(source, target)


@contextlib.contextmanager
def environment_errors() -> Generator[None]:
    """Turn a full, read-only or forbidden disk into EnvironmentProblem with the path."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in _ENVIRONMENT_ERRNOS:
            raise
        raise EnvironmentProblem(
            f"cannot write {problem.filename or 'the output directory'}: {problem.strerror}; free some space or name "
            "another --output_dir, then run the same command again: finished stages are kept"
        ) from problem


def describe_file(path: Path) -> dict[str, Any]:
    """{size in bytes, sha256} of one file."""
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


def sync_tree(folder: Path) -> None:
    """The same for a folder and everything below it."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)
