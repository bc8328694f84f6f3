"""How integer DCT coefficients become codes and back: the two alphabets of action tokenizers.

`SymbolAlphabet` (our own fit): one private-use character per coefficient, so that every code is a whole number of
coefficients. `ByteAlphabet` (the hub's FAST+): characters chr(c - min_token) through a byte-level BPE, where a code may
end inside a two-byte character.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

PRIVATE_USE = 0xE000
PRIVATE_USE_SIZE = 6400
_TWO_BYTE_LIMIT = 0x800  # code points below it take one or two UTF-8 bytes


class UndecodableAction(ValueError):
    """A code sequence does not spell exactly H x 7 coefficients in range."""


class Alphabet(Protocol):
    """How integer coefficients become codes."""

    num_codes: int
    largest: int  # every coefficient of at most this magnitude can be spelled

    def spell(self, coefficients: np.ndarray) -> list[int]:
        """Int [N] -> codes."""
        ...

    def read(self, codes: Sequence[int]) -> np.ndarray:
        """Codes -> int [N]. Raises UndecodableAction."""
        ...

    def transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """See FastTokenizer.transitions."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `load` makes it again."""
        ...


# ------------------------------------------------------------------ our own fit


class SymbolAlphabet:
    """Coefficients -limit..limit as private-use characters, then BPE without a byte level."""

    def __init__(self, tokenizer: Tokenizer, limit: int, num_codes: int) -> None:
        self.num_codes = num_codes
        self._tokenizer = tokenizer
        self._limit = self.largest = limit
        self._spelling: dict[int, np.ndarray] = {
            code: np.array([ord(c) - PRIVATE_USE - limit for c in text], np.int64)
            for text, code in tokenizer.get_vocab(with_added_tokens=False).items()
        }

    def spell(self, coefficients: np.ndarray) -> list[int]:
        """Coefficients outside -limit..limit cannot come from values up to `FastTokenizer.reach`."""
        if np.abs(coefficients).max(initial=0) > self._limit:
            raise ValueError(f"a coefficient exceeds {self._limit}: the chunk is not normalised as for this fit")
        return self._tokenizer.encode(symbols(coefficients, self._limit)).ids

    def read(self, codes: Sequence[int]) -> np.ndarray:
        """Raises UndecodableAction on a code that spells nothing."""
        unknown = [c for c in codes if c not in self._spelling]
        if unknown:
            raise UndecodableAction(f"code {unknown[0]} spells nothing")
        return np.concatenate([np.zeros(0, np.int64), *(self._spelling[c] for c in codes)])

    def transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """One state: a code is a whole number of coefficients."""
        count = np.full((1, self.num_codes), -1, np.int64)
        for code, values in self._spelling.items():
            count[0, code] = len(values)
        return np.zeros((1, self.num_codes), np.int64), count

    def to_json(self) -> dict[str, Any]:
        """See `load`."""
        tokenizer = json.loads(self._tokenizer.to_str())
        return {"alphabet": "symbols", "limit": self._limit, "num_codes": self.num_codes, "tokenizer": tokenizer}


def symbols(coefficients: np.ndarray, limit: int) -> str:
    """Coefficients -limit..limit as the private-use characters that `SymbolAlphabet` encodes."""
    return "".join(map(chr, (coefficients + limit + PRIVATE_USE).tolist()))


# ------------------------------------------------------------------ the hub's FAST+


class ByteAlphabet:
    """Coefficients as characters chr(c - min_token), then a byte-level BPE, as in FAST+'s data files."""

    def __init__(self, tokenizer: Tokenizer, min_token: int, num_codes: int) -> None:
        self.num_codes = num_codes
        self.largest = min(-min_token, _TWO_BYTE_LIMIT - 1 + min_token)
        self._tokenizer = tokenizer
        self._min_token = min_token

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """Code -> the UTF-8 bytes it stands for; codes of characters outside the byte alphabet are dead."""
        byte_of = {character: byte for byte, character in byte_characters().items()}
        known = self._tokenizer.get_vocab(with_added_tokens=False).items()
        return {code: bytes(byte_of[c] for c in text) for text, code in known if all(c in byte_of for c in text)}

    def spell(self, coefficients: np.ndarray) -> list[int]:
        """Coefficients below min_token are raised to it, as in the reference encoder."""
        shifted = np.maximum(coefficients - self._min_token, 0)
        if shifted.max(initial=0) >= _TWO_BYTE_LIMIT:
            raise ValueError(
                f"coefficient {coefficients.max()} is out of range: the chunk is not normalised to [-1, 1]"
            )
        return self._tokenizer.encode("".join(map(chr, shifted.tolist()))).ids

    def read(self, codes: Sequence[int]) -> np.ndarray:
        """Raises UndecodableAction on dead codes, half characters and characters that no coefficient has.

        The reference decoder turns a half character into U+FFFD, a coefficient of 65,179, without an error.
        """
        known = self._bytes
        unknown = [c for c in codes if c not in known]
        if unknown:
            raise UndecodableAction(f"code {unknown[0]} spells nothing")
        try:
            text = b"".join(known[c] for c in codes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UndecodableAction(f"half a character: {error.reason}") from None
        points = np.fromiter(map(ord, text), np.int64)
        if points.max(initial=0) >= _TWO_BYTE_LIMIT:
            raise UndecodableAction(f"character {points.max():#x} is no coefficient")
        return points + self._min_token

    def transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """Two states: between characters, and inside a two-byte one."""
        end, count = np.zeros((2, self.num_codes), np.int64), np.full((2, self.num_codes), -1, np.int64)
        for code, spelled in self._bytes.items():
            for state in (0, 1):
                walked = _walk(spelled, state)
                if walked is not None:
                    end[state, code], count[state, code] = walked
        return end, count

    def to_json(self) -> dict[str, Any]:
        """See `load`."""
        tokenizer = json.loads(self._tokenizer.to_str())
        return {"alphabet": "bytes", "min_token": self._min_token, "num_codes": self.num_codes, "tokenizer": tokenizer}


def _walk(spelled: bytes, state: int) -> tuple[int, int] | None:
    """Follow UTF-8 of one- and two-byte characters: (end state, characters completed), or None where it is invalid."""
    count = 0
    for byte in spelled:
        if state == 0 and byte < 0x80:
            count += 1
        elif state == 0 and 0xC2 <= byte <= 0xDF:
            state = 1
        elif state == 1 and 0x80 <= byte <= 0xBF:
            state, count = 0, count + 1
        else:
            return None
    return state, count


def byte_characters() -> dict[int, str]:
    """Byte -> the printable character that stands for it in a byte-level BPE (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
