"""What stands between a model's tokens and the simulator: how it is shown the scene, and what its action codes do.

`codes` is training's direction, `actions` the deployed one; the policy and the oracle that checks it use the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_pipeline.action_stats import ActionStatistics
from data_pipeline.image_frame import policy_image
from evaluation.decoding import ActionConstraint, CodeAutomaton
from training.action_tokenizer import FastTokenizer
from training.dataset import action_chunk

Picture = Callable[[np.ndarray, int], np.ndarray]
"""How a frame, uint8 [R, R, 3] ImageFrame.GL, becomes what a policy of that many pixels sees, uint8 [S, S, 3]."""


@dataclass(frozen=True)
class Interface:
    """One adapter's conversions."""

    tokenizer: FastTokenizer
    statistics: ActionStatistics
    image_size: int  # pixels, square
    picture: Picture = policy_image

    def see(self, image_gl: np.ndarray) -> np.ndarray:
        """A frame of the simulator or of a file, uint8 [R, R, 3] ImageFrame.GL -> uint8 [S, S, 3] as the policy's."""
        return self.picture(image_gl, self.image_size)

    def codes(self, actions: np.ndarray, step: int) -> list[int]:
        """What training teaches to write at `step` of an episode of environment actions [T, 7]."""
        return self.tokenizer.encode(action_chunk(self.statistics.normalize(actions), step, self.tokenizer.horizon))

    def actions(self, codes: Sequence[int]) -> np.ndarray:
        """Codes -> float32 [H, 7] in the environment's convention. Raises UndecodableAction."""
        return self.statistics.unnormalize(self.tokenizer.decode(codes))

    @cached_property
    def constraint(self) -> ActionConstraint:
        """See `constraint_of`."""
        return constraint_of(self.tokenizer)


def constraint_of(tokenizer: FastTokenizer) -> ActionConstraint:
    """Which codes may follow which, so that they spell exactly one chunk."""
    following, count = tokenizer.transitions()
    return ActionConstraint(CodeAutomaton(coefficients=count, following=following), tokenizer.num_coefficients)
