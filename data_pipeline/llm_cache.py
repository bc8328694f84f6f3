"""Paid replies on disk, one file per call, named by what was asked: the same question is never paid for twice.

The folder lies beside the store, so that replies outlive stages, their keys and their versions. A reply is written,
synced and renamed into place before anything looks at what it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.whole_files import sync, write_synced


@dataclass(frozen=True)
class Request:
    """What determines an answer. The API key, the JSON mode and where the call runs are no part of it."""

    model: str
    base_url: str
    messages: Sequence[Mapping[str, str]]
    max_tokens: int

    @property
    def key(self) -> str:
        """sha256 (hex) of the request."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """`<folder>/<2 hex>/<sha256>.json`: {request, body}, where the body is the server's, as text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, request: Request) -> Path:
        """Where a request's reply lies, whether it exists or not."""
        key = request.key
        return self.folder / key[:2] / f"{key}.json"

    def get(self, request: Request) -> str | None:
        """The body of an earlier reply, None where there is none, or none that can be read: it is asked for again."""
        try:
            return str(json.loads(self.path(request).read_text(encoding="utf-8"))["body"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, request: Request, body: str) -> None:
        """Keep a reply; it is on the disk when this returns."""
        path = self.path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, json.dumps({"request": asdict(request), "body": body}))
        sync(self.folder)
