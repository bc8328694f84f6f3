"""Packed files: whatever byte of one is damaged, it is refused or reads as it was written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem, EpisodeId, FlowTokens
from data_pipeline.flow_tokens import FLOW_TOKENS_JSON, FLOW_TOKENS_NPZ, load_flow_tokens, save_flow_tokens

EPISODE = EpisodeId(Subset.OBJECT, 0, 3)


def damaged_copies(path: Path) -> list[bytes]:
    """A file with one byte changed: every byte of the archive's directory, some of the rest."""
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    places = [*range(0, directory, 11), *range(directory, len(whole))]
    return [whole[:i] + bytes([whole[i] ^ mask]) + whole[i + 1 :] for i in places for mask in (1, 0x48)]


def survivors(path: Path, read: Callable[[Path], Any]) -> list[Any]:
    """What damaged copies of a file read as, those left out that are refused."""
    found: list[Any] = []
    for copy in damaged_copies(path):
        path.write_bytes(copy)
        with contextlib.suppress(EnvironmentProblem):
            found.append(read(path))
    return found


def test_a_damaged_token_file_is_refused_or_the_same(tmp_path: Path) -> None:
    tokens = FlowTokens(EPISODE, np.arange(20, dtype=np.uint16).reshape(5, 4), np.full(5, 2, np.uint16), 2, 26, "grid")
    save_flow_tokens(tmp_path / FLOW_TOKENS_JSON, {EPISODE: tokens}, {"backend": "sim"})
    for read in survivors(tmp_path / FLOW_TOKENS_NPZ, load_flow_tokens):
        assert (read[EPISODE].codes == tokens.codes).all()
        assert (read[EPISODE].k_effective == tokens.k_effective).all()
