"""Named arrays and a manifest in one .npz (numpy reads it): atomic, and equal values give equal bytes."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.contract import EnvironmentProblem
from data_pipeline.whole_files import written_whole

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp, so that equal arrays give equal bytes
_MANIFEST = "manifest.json"


def write_packed(path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """manifest: plain JSON values."""
    with (
        written_whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        _add(archive, _MANIFEST, json.dumps(dict(manifest), sort_keys=True, indent=1).encode())
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.save(buffer, arrays[name], allow_pickle=False)
            _add(archive, f"{name}.npy", buffer.getvalue())


def read_packed(path: Path, remedy: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(manifest, arrays). Raises EnvironmentProblem on a missing or torn file, with the remedy."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            arrays = {n.removesuffix(".npy"): _array(archive, n) for n in archive.namelist() if n.endswith(".npy")}
    except FileNotFoundError:
        raise EnvironmentProblem(f"{path} does not exist; {remedy}") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, RuntimeError) as error:
        # the last two: a directory of the archive that was damaged names offsets, versions, encryption that are not
        raise EnvironmentProblem(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from error
    return manifest, arrays


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.load(io.BytesIO(archive.read(name)), allow_pickle=False)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _ZIP_EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
