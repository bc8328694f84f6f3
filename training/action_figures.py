"""How far teacher-forced actions are from the true ones once decoded, in the data set's own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.choices import Role
from data_pipeline.action_stats import ActionStatistics
from training.action_tokenizer import FastTokenizer, UndecodableAction
from training.layout import ROLES, Vocabulary
from training.loss import TokenLosses

MOTION = 6  # dimensions before the gripper's


@dataclass(frozen=True)
class WrittenActions:
    """Codes of one sample, both int64 [n]; a chosen one may lie outside 0..num_codes-1."""

    chosen: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True)
class ActionReader:
    """Finds action codes among tokens, and says how far off they are."""

    vocabulary: Vocabulary
    actions: FastTokenizer
    statistics: ActionStatistics

    def read(self, tokens: TokenLosses) -> list[WrittenActions]:
        """One entry per row of a batch: every row ends with its action and the end token."""
        acting = tokens.roles == ROLES.index(Role.ACTION)
        wanted, chosen = (ids[acting].cpu().numpy() for ids in (tokens.wanted, tokens.chosen))
        ends = np.flatnonzero(wanted == self.vocabulary.end)
        starts = [0, *(ends[:-1] + 1)]
        first = self.vocabulary.action_start
        return [WrittenActions(chosen[a:b] - first, wanted[a:b] - first) for a, b in zip(starts, ends, strict=True)]

    def figures(self, parts: Sequence[WrittenActions]) -> dict[str, float]:
        """`action_l1`: mean difference per entry of the motion, in OSC units, of those that decode.

        `action_undecodable`: share of those that do not; teacher forcing keeps no count of coefficients.
        """
        errors = [error for part in parts if (error := self._error(part)) is not None]
        out = {"action_undecodable": 1 - len(errors) / len(parts)}
        return out | ({"action_l1": float(np.mean(errors))} if errors else {})

    def _error(self, part: WrittenActions) -> float | None:
        if part.chosen.min() < 0 or part.chosen.max() >= self.vocabulary.num_actions:
            return None
        try:
            own, true = (self.actions.decode(codes.tolist()) for codes in (part.chosen, part.wanted))
        except UndecodableAction:
            return None
        own, true = (self.statistics.unnormalize(chunk)[:, :MOTION] for chunk in (own, true))
        return float(np.abs(own - true).mean())
