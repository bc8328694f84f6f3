"""Qwen's text vocabulary, read from `qwen.tiktoken`: how long texts are for a real base, without downloading one.

The file is part of PyPI's `dashscope` (dashscope/resources/qwen.tiktoken; the development environment has it): a line
per token, its bytes in base64 and its rank. Qwen2.5 has the same ranks as ids, then CONTROL_TOKENS.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from configs.checks import check

CONTROL_TOKENS = 22  # of Qwen2.5, after its text: the next id is the first that a base may add


class QwenVocabulary:
    """Byte-pair encoding by rank."""

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        self.ranks = ranks
        self._split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
        self._merged = cache(self._merge)

    @classmethod
    def read(cls, path: Path) -> QwenVocabulary:
        """From qwen.tiktoken. Raises ConfigError where the file is missing or another."""
        check(
            path.is_file(),
            f"{path} is not a file; PyPI has it: pip download --no-deps dashscope",
        )
        lines = [line.split() for line in path.read_bytes().splitlines()]
        check(all(len(line) == 2 and line[1].isdigit() for line in lines), f"{path} is no tiktoken file: BASE64 RANK")
        return cls({base64.b64decode(token): int(rank) for token, rank in lines})

    @property
    def first_added_id(self) -> int:
        """Of tokens that a base adds: NORA's <robot_action_0>."""
        return len(self.ranks) + CONTROL_TOKENS

    def encode(self, text: str) -> list[int]:
        """Ids of a text without control tokens."""
        pieces = (piece for piece, _ in self._split.pre_tokenize_str(text))
        return [token for piece in pieces for token in self._merged(piece)]

    def _merge(self, piece: str) -> list[int]:
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            pairs = [self.ranks.get(left + right, len(self.ranks)) for left, right in itertools.pairwise(parts)]
            best = min(pairs)
            if best == len(self.ranks):
                break
            at = pairs.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.ranks[part] for part in parts]
