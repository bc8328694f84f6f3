"""Where a model's files are, and what they are: folders, the hub's cache, digests of content. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from configs.checks import check
from data_pipeline.contract import EnvironmentProblem

TINY = "tiny"
"""`model.base` for the tiny base that comes with the project."""
SCRATCH = "scratch"
"""`model.base` for a tiny base that is trained here, by the stage `base`."""
TINY_BASES = (TINY, SCRATCH)

_DIGESTED = ("config.json", "*.safetensors", "tokenizer.json")
_BLOCK = 1 << 20
_WHOLE_FILE = 256 * _BLOCK
_SAMPLED_BLOCKS = 64


@dataclass(frozen=True)
class BaseFolder:
    """A base model on this machine."""

    path: Path
    name: str  # what an adapter calls it; never a path
    digest: str


def locate_base(base: str, revision: str = "", folder: Path | None = None, asked: str = "model.base=") -> BaseFolder:
    """Find the base model's files.

    base: `tiny` or `scratch` (`folder` is what its stage made), a local folder, or a hub id (cached, or fetched here).
    asked: what the user wrote before it.
    Raises ConfigError or EnvironmentProblem with the remedy.
    """
    if base in TINY_BASES:
        check(folder is not None, f"model.base={base} is made by a stage; run the study, or give its folder")
        assert folder is not None
        digest = folder_digest(folder)
        return BaseFolder(folder, f"{TINY}:{digest[:16]}", digest)
    if Path(base).is_dir():
        digest = folder_digest(Path(base))
        return BaseFolder(Path(base), f"local:{digest[:16]}", digest)
    path = _snapshot(base, revision, asked)
    return BaseFolder(path, f"{base}@{revision or path.name}", folder_digest(path))


def _snapshot(base: str, revision: str, asked: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(base, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise EnvironmentProblem(
            f"{asked}{base!r}: no such folder, and the hub cannot be reached ({type(error).__name__}). "
            f"Run `hf download {base}` where there is a network, give a local folder, or use preset=tiny"
        ) from error


def folder_digest(folder: Path) -> str:
    """sha256 of a model folder's configuration, weights and tokenizer.

    Of a file above 256 MiB: its size and 64 evenly spaced blocks of 1 MiB. Raises EnvironmentProblem where there is
    no config.json.
    """
    if not (folder / "config.json").is_file():
        raise EnvironmentProblem(f"{folder} is not a model folder: no config.json")
    digest = hashlib.sha256()
    for path in sorted({p for pattern in _DIGESTED for p in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
                continue
            for number in range(_SAMPLED_BLOCKS):
                file.seek((size - _BLOCK) * number // (_SAMPLED_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
