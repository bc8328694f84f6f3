"""What a study asks of the expert. Imports no simulator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Manner:
    """How demonstrations are made."""

    noise: float = 0.0  # standard deviation of what disturbs the executed actions in transit, of 1
    spread: float = 1.0  # of the style, see motion.Style


USUAL = Manner()
