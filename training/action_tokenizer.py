"""FAST: normalised action chunk float32 [H, 7] <-> codes 0..num_codes-1 (<robot_action_i> in the sequence).

DCT-II (orthonormal) along time, times `scale`, rounded, flattened row-major [time, dim], byte-pair encoded.
Source of the scheme: FAST (Pertsch et al. 2025, arXiv 2501.09747); its decoder answers a malformed sequence with
zeros, ours raises `UndecodableAction`. The coefficients are
spelled by an alphabet (action_alphabets.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

from configs.checks import ConfigError, check
from data_pipeline.contract import ACTION_DIM, EnvironmentProblem
from data_pipeline.whole_files import write_text
from training.action_alphabets import (
    PRIVATE_USE,
    PRIVATE_USE_SIZE,
    Alphabet,
    ByteAlphabet,
    SymbolAlphabet,
    UndecodableAction,
    symbols,
)

ACTION_TOKENIZER_FILE = "action_tokenizer.json"
"""Beside a tiny base and in every checkpoint."""
_HUB_FILES = ("tokenizer.json", "processor_config.json")


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
        2 * limit + 1 <= min(num_codes, PRIVATE_USE_SIZE),
        f"action.codes={num_codes}: scale {scale:g}, horizon {horizon} and normalised actions up to {largest:.3g} need "
        f"at least {2 * limit + 1} (allowed: up to {PRIVATE_USE_SIZE}); raise action.codes or "
        "action.half_range_floor, or use action.normalization=bounds_q99",
    )
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=num_codes,
        min_frequency=2,
        initial_alphabet=[chr(PRIVATE_USE + i) for i in range(2 * limit + 1)],
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator((symbols(quantise(chunk, scale), limit) for chunk in chunks), trainer)
    return FastTokenizer(scale, horizon, SymbolAlphabet(tokenizer, limit, num_codes))


# ------------------------------------------------------------------ the hub's FAST+


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
