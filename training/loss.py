"""The loss: sum over roles of weight_role * (sum of w * CE / sum of w, over that role's tokens in the global batch).

So a role's weight means the same whatever its length, the accumulation or the number of pieces. Logits are made only
where a token is a target. A role that is absent adds 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from configs.choices import Role
from training.batch import Batch
from training.layout import IGNORE, ROLES


@dataclass(frozen=True)
class TokenLosses:
    """One entry per target token of a batch, K in all."""

    losses: torch.Tensor  # float32 [K], cross-entropy
    weights: torch.Tensor  # float32 [K]
    roles: torch.Tensor  # int64 [K], index into ROLES
    tags: torch.Tensor  # int64 [K], index into TAGS, -1 outside the reasoning's text
    wanted: torch.Tensor  # int64 [K], ids of the targets
    chosen: torch.Tensor  # int64 [K], ids of the largest logits

    @property
    def correct(self) -> torch.Tensor:
        """Bool [K]."""
        return self.chosen == self.wanted


def token_losses(network: Callable[[Batch, torch.Tensor], torch.Tensor], batch: Batch) -> TokenLosses:
    """Forward one batch. network: see Network.__call__."""
    labels = batch.labels[:, 1:]
    target = labels != IGNORE
    predicting = F.pad(target, (0, 1))  # position t predicts token t + 1
    logits = network(batch, predicting)  # [K, vocabulary]
    wanted = labels[target]
    return TokenLosses(
        losses=F.cross_entropy(logits, wanted, reduction="none"),
        weights=batch.loss_weights[:, 1:][target],
        roles=batch.role[:, 1:][target],
        tags=batch.tags[:, 1:][target],
        wanted=wanted,
        chosen=logits.detach().argmax(-1),
    )


def role_shares(tokens: TokenLosses, totals: Mapping[Role, float]) -> dict[Role, torch.Tensor]:
    """A batch's share of each role's mean over the global batch; summed over its batches, the mean."""
    shares = {}
    for role, total in totals.items():
        mine = tokens.roles == ROLES.index(role)
        shares[role] = (tokens.losses[mine] * tokens.weights[mine]).sum() / total
    return shares


def weighted_sum(shares: Mapping[Role, torch.Tensor], weights: Mapping[Role, float]) -> torch.Tensor:
    """What is differentiated."""
    return torch.stack([weights[role] * share for role, share in shares.items()]).sum()
