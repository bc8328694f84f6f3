"""FAST: normalised action chunk float32 [H, 7] <-> codes 0..num_codes-1 (<robot_action_i> in the sequence).

DCT-II (orthonormal) along time, times `scale`, rounded, flattened row-major [time, dim], byte-pair encoded.
Source of the scheme: FAST (Pertsch et al. 2025, arXiv 2501.09747); its decoder answers a malformed sequence with
zeros, ours raises `UndecodableAction`.

Two alphabets spell the coefficients. `SymbolAlphabet` (our own fit): one private-use character per coefficient, so
that every code is a whole number of coefficients. `ByteAlphabet` (the hub's FAST+): characters chr(c - min_token)
through a byte-level BPE, where a code may end inside a two-byte character.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

from configs.schema import ConfigError, check
from data_pipeline.contract import ACTION_DIM, EnvironmentProblem
from data_pipeline.whole_files import write_text

ACTION_TOKENIZER_FILE = "action_tokenizer.json"
"""Beside a tiny base and in every checkpoint."""
_PRIVATE_USE = 0xE000
_PRIVATE_USE_SIZE = 6400
_TWO_BYTE_LIMIT = 0x800  # code points below it take one or two UTF-8 bytes
_HUB_FILES = ("tokenizer.json", "processor_config.json")


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


@dataclass(frozen=True)
class FastTokenizer:
    """One action tokenizer: a scale, a horizon and an alphabet."""

    scale: float
    horizon: int  # H, steps per chunk
    alphabet: Alphabet

    @property
    def num_codes(self) -> int:
        """Codes are 0..num_codes-1; some may spell nothing."""
        return self.alphabet.num_codes

    @property
    def num_coefficients(self) -> int:
        """H x 7: what every valid sequence spells, exactly."""
        return self.horizon * ACTION_DIM

    @property
    def reach(self) -> float:
        """Every chunk of values up to this magnitude can be spelled. See `fit`."""
        return self.alphabet.largest / (self.scale * math.sqrt(2 * self.horizon))

    def check_reach(self, largest: float) -> None:
        """Raise ConfigError where normalised actions may be too large to be spelled (action.normalization=normal)."""
        check(
            largest <= self.reach * (1 + 1e-9),
            f"normalised actions may reach {largest:.3g}, and this action tokenizer spells up to {self.reach:.3g}; use "
            "action.normalization=bounds_q99, or raise action.half_range_floor",
        )

    def encode(self, chunk: np.ndarray) -> list[int]:
        """chunk: float [H, 7], normalised, values up to `reach`. Returns codes."""
        assert chunk.shape == (self.horizon, ACTION_DIM), chunk.shape
        return self.alphabet.spell(quantise(chunk, self.scale))

    def decode(self, codes: Sequence[int]) -> np.ndarray:
        """Codes -> float32 [H, 7]. Raises UndecodableAction where they do not spell exactly H x 7 coefficients."""
        coefficients = self.alphabet.read(codes)
        if len(coefficients) != self.num_coefficients:
            raise UndecodableAction(f"{len(coefficients)} coefficients; a chunk has {self.num_coefficients}")
        grid = coefficients.reshape(self.horizon, ACTION_DIM) / self.scale
        return np.asarray(idct(grid, axis=0, norm="ortho"), np.float32)

    def transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """(end_state int [S, num_codes], count int [S, num_codes]).

        Reading code v in state s leads to end_state[s, v] and completes count[s, v] coefficients; count is -1 where
        v cannot follow. State 0 is the start and the only valid end. S is 1 for symbols, 2 for bytes.
        """
        return self.alphabet.transitions()

    @property
    def coefficients(self) -> np.ndarray:
        """Int [num_codes]: how many coefficients each code completes from state 0; -1 where it cannot stand."""
        return self.transitions()[1][0]

    def to_json(self) -> str:
        """Canonical text: equal tokenizers give equal bytes."""
        values = {"scale": self.scale, "horizon": self.horizon, **self.alphabet.to_json()}
        return json.dumps(values, sort_keys=True, ensure_ascii=True)

    @property
    def digest(self) -> str:
        """sha256 of the canonical text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write `to_json` atomically."""
        write_text(path, self.to_json())


def quantise(chunk: np.ndarray, scale: float) -> np.ndarray:
    """Chunk float [H, D] -> int64 [H * D]: orthonormal DCT-II along time, scaled and rounded, row-major."""
    spectrum = np.asarray(dct(chunk.astype(np.float64), axis=0, norm="ortho"))
    return np.rint(spectrum * scale).astype(np.int64).ravel()


def load(path: Path) -> FastTokenizer:
    """Inverse of FastTokenizer.save."""
    values = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps(values["tokenizer"]))
    alphabet: Alphabet
    if values["alphabet"] == "symbols":
        alphabet = SymbolAlphabet(tokenizer, values["limit"], values["num_codes"])
    else:
        alphabet = ByteAlphabet(tokenizer, values["min_token"], values["num_codes"])
    return FastTokenizer(values["scale"], values["horizon"], alphabet)


# ------------------------------------------------------------------ our own fit


class SymbolAlphabet:
    """Coefficients -limit..limit as private-use characters, then BPE without a byte level."""

    def __init__(self, tokenizer: Tokenizer, limit: int, num_codes: int) -> None:
        self.num_codes = num_codes
        self._tokenizer = tokenizer
        self._limit = self.largest = limit
        self._spelling: dict[int, np.ndarray] = {
            code: np.array([ord(c) - _PRIVATE_USE - limit for c in text], np.int64)
            for text, code in tokenizer.get_vocab(with_added_tokens=False).items()
        }

    def spell(self, coefficients: np.ndarray) -> list[int]:
        """Coefficients outside -limit..limit cannot come from values up to `FastTokenizer.reach`."""
        if np.abs(coefficients).max(initial=0) > self._limit:
            raise ValueError(f"a coefficient exceeds {self._limit}: the chunk is not normalised as for this fit")
        return self._tokenizer.encode(_symbols(coefficients, self._limit)).ids

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


def fit(
    chunks: Iterable[np.ndarray], horizon: int, scale: float, num_codes: int, largest: float = 1.0
) -> FastTokenizer:
    """Fit symbols on chunks, each float [H, 7] of values up to `largest`. Deterministic in the multiset of chunks.

    The alphabet covers every such chunk, seen or not: an orthonormal DCT coefficient of H values in [-1, 1] is at
    most sqrt(2 H) in size. Raises ConfigError where that takes more codes than there are, as it may where
    normalisation does not clip.
    """
    limit = math.ceil(scale * math.sqrt(2 * horizon) * largest)
    check(
        2 * limit + 1 <= min(num_codes, _PRIVATE_USE_SIZE),
        f"action.codes={num_codes}: scale {scale:g}, horizon {horizon} and normalised actions up to {largest:.3g} need "
        f"at least {2 * limit + 1} (allowed: up to {_PRIVATE_USE_SIZE}); raise action.codes or "
        "action.half_range_floor, or use action.normalization=bounds_q99",
    )
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=num_codes,
        min_frequency=2,
        initial_alphabet=[chr(_PRIVATE_USE + i) for i in range(2 * limit + 1)],
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator((_symbols(quantise(chunk, scale), limit) for chunk in chunks), trainer)
    return FastTokenizer(scale, horizon, SymbolAlphabet(tokenizer, limit, num_codes))


def _symbols(coefficients: np.ndarray, limit: int) -> str:
    return "".join(map(chr, (coefficients + limit + _PRIVATE_USE).tolist()))


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


def from_hub_files(source: str, horizon: int, revision: str = "") -> FastTokenizer:
    """FAST+ from its data files, without running its code.

    source: a folder with tokenizer.json and processor_config.json, or a hub id whose files are already cached or can
    be fetched. Raises EnvironmentProblem where they are not to be had.
    """
    tokenizer_file, config_file = (_locate(source, name, revision) for name in _HUB_FILES)
    values = json.loads(config_file.read_text(encoding="utf-8"))
    for key in ("scale", "min_token", "vocab_size"):
        if not isinstance(values.get(key), (int, float)):
            raise ConfigError(f"{config_file} has no number {key!r}; is {source!r} a FAST+ tokenizer?")
    alphabet = ByteAlphabet(
        Tokenizer.from_file(str(tokenizer_file)), int(values["min_token"]), int(values["vocab_size"])
    )
    return FastTokenizer(float(values["scale"]), horizon, alphabet)


def _locate(source: str, name: str, revision: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder / name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(source, name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise EnvironmentProblem(
            f"action.tokenizer={source!r}: no such folder, and {name} cannot be fetched ({type(error).__name__}). "
            f"Run `hf download {source}` where there is a network, give a local folder, or set action.tokenizer=fit"
        ) from error
