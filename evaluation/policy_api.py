"""The seam between rollouts and policies: what a policy is shown, what it decides. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.episodes import EpisodeKey

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
"""What a policy sees that is shown no picture (`Shows`)."""


@dataclass(frozen=True)
class Observation:
    """One query. A policy keeps no state: everything it may use is here."""

    image: np.ndarray  # uint8 [R, R, 3], agentview, ImageFrame.GL; NO_IMAGE where none is shown
    instruction: str
    think: bool  # reason before acting
    step: int  # environment steps since settling
    kept: tuple[int, ...] = ()  # ids of an earlier reasoning to act on; () for a new one
    episode: EpisodeKey | None = None  # which one asks; for what replays recordings, a model has no use for it
    advice: np.ndarray | str | None = None  # the scripted expert's next action, float32 [7], or why it gives up


@dataclass(frozen=True)
class Decision:
    """The answer to one query."""

    actions: np.ndarray  # float32 [H, 7], environment convention: deltas in [-1, 1], gripper -1 open / +1 close
    reasoning: tuple[int, ...] = ()  # ids to hand back as `kept`; () without reasoning
    text: str = ""  # the reasoning for people, empty where it was kept
    tokens: int = 0  # generated for this query
    free_decodable: bool = True  # without the constraint the same chunk would have been written, and then an end
    forced: bool = False  # the reasoning was cut at the limit
    gives_up: str = ""  # why the episode should end here, as a failure; `actions` are not executed then
    seconds: float = 0.0  # its share: of the batch that this query was in, divided by its queries
    latency_s: float = 0.0  # how long the robot waited: the whole call of `act`


class Policy(Protocol):
    """Maps observations to action chunks, as one batch; each decision depends on its own observation only."""

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """One decision per observation, in order."""
        ...
