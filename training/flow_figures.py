"""How well flow tokens were predicted: accuracy, accuracy where something moves, and the error in pixels once decoded.

The truth is the tokens of the true flow, decoded too: what the tokenizer itself loses is not counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.contract import STATIC_CODE
from training.layout import Vocabulary
from training.loss import TokenLosses

Decode = Callable[[np.ndarray], np.ndarray]
"""Codes int [N, codes per step] -> float32 [N, D, D, 2], pixels at 256 px scale."""

NO_CODE = -1
"""What was predicted where a flow code stands was no flow code."""


@dataclass(frozen=True)
class FlowCodes:
    """Predicted and true codes of N steps."""

    chosen: np.ndarray  # int64 [N, codes per step]; NO_CODE where it was another token
    wanted: np.ndarray  # int64 [N, codes per step]


@dataclass(frozen=True)
class FlowReader:
    """Finds flow codes among tokens, and says how far off they are."""

    vocabulary: Vocabulary
    codes_per_step: int
    decode: Decode | None  # None: of tokens that came without their tokenizer

    def read(self, tokens: TokenLosses) -> FlowCodes:
        """The flow codes of a batch, teacher-forced. Every flow segment is whole, so that rows are steps."""
        wanted = self._codes_of(tokens.wanted.cpu().numpy())
        found = wanted != NO_CODE  # the FLOW tag is no code
        chosen = self._codes_of(tokens.chosen.cpu().numpy())[found]
        return FlowCodes(chosen.reshape(-1, self.codes_per_step), wanted[found].reshape(-1, self.codes_per_step))

    def compare(self, own: Sequence[int], truth: Sequence[int]) -> FlowCodes:
        """The codes of one sequence that a model wrote freely, beside the true one's; all wrong if not as many."""
        chosen, wanted = (self._codes_of(np.asarray(ids)) for ids in (own, truth))
        chosen, wanted = chosen[chosen != NO_CODE], wanted[wanted != NO_CODE]
        if len(chosen) != len(wanted):
            chosen = np.full_like(wanted, NO_CODE)
        return FlowCodes(chosen.reshape(-1, self.codes_per_step), wanted.reshape(-1, self.codes_per_step))

    def _codes_of(self, ids: np.ndarray) -> np.ndarray:
        """Token ids -> codes of the same shape, NO_CODE where a token is none."""
        codes = ids - self.vocabulary.flow_start
        return np.where((codes >= 0) & (codes < self.vocabulary.num_flows), codes, NO_CODE)

    def figures(self, parts: Sequence[FlowCodes]) -> dict[str, float]:
        """Accuracy of all codes and of those that move; end-point errors in pixels where there is a decoder.

        `moving` are pixels whose true decoded flow is not zero; `zero` is the error of predicting no motion there. What
        is no code decodes as no motion. Figures that have nothing to stand on are left out.
        """
        chosen, wanted = (np.concatenate([getattr(p, name) for p in parts]) for name in ("chosen", "wanted"))
        if not len(wanted):
            return {}
        right, moves = chosen == wanted, wanted != STATIC_CODE
        out = {"flow_accuracy": float(right.mean())}
        if moves.any():
            out["flow_moving_accuracy"] = float(right[moves].mean())
        return out | (self._errors(chosen, wanted) if self.decode is not None else {})

    def _errors(self, chosen: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
        assert self.decode is not None
        guess, truth = self.decode(np.where(chosen == NO_CODE, STATIC_CODE, chosen)), self.decode(wanted)
        error, length = np.linalg.norm(guess - truth, axis=-1), np.linalg.norm(truth, axis=-1)
        out = {"flow_epe_px": float(error.mean())}
        if (moving := length > 0).any():
            out |= {
                "flow_epe_moving_px": float(error[moving].mean()),
                "flow_epe_moving_zero_px": float(length[moving].mean()),
            }
        return out
