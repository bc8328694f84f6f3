"""(seed, step) -> what the step trains on: the order, the reasoning draws and the image shifts.

They depend neither on workers nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from torch.utils.data import Dataset

from configs.checks import ConfigError
from configs.choices import DropoutVariant, Role
from training.batch import Batch, collate, shift_image
from training.corruption import corrupted
from training.dataset import TrainingData
from training.layout import ROLES, Layout, TokenSequence, draw_dropped, flatten, sample_generator, spans


@dataclass(frozen=True)
class SamplingPlan:
    """How steps draw their samples."""

    seed: int
    batch_size: int  # samples per forward pass, at most
    accumulation: int
    reasoning_dropout_prob: float  # probability of no reasoning at all, or of each of its pieces
    shift_px: int = 0
    variant: DropoutVariant = DropoutVariant.WHOLE
    process: int = 0  # of `processes`, which share every global batch
    processes: int = 1

    @property
    def global_batch(self) -> int:
        """Samples per optimiser step, of all processes."""
        return self.batch_size * self.accumulation * self.processes


@dataclass(frozen=True)
class StepInput:
    """One optimiser step: this process's share of the global batch in pieces, and what its losses are divided by."""

    batches: tuple[Batch, ...]
    totals: Mapping[Role, float]  # sum of loss weights per role over the whole global batch

    @property
    def samples(self) -> int:
        """Of this process."""
        return sum(len(batch.input_ids) for batch in self.batches)


def numbers_of_step(step: int, seed: int, global_batch: int, size: int) -> list[tuple[int, int]]:
    """(epoch, sample number) of each sample of optimiser step `step` (from 0): every epoch is a permutation."""
    positions = range(step * global_batch, (step + 1) * global_batch)
    return [(p // size, int(_permutation(seed, p // size, size)[p % size])) for p in positions]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class StepInputs(Dataset[StepInput]):
    """Item `step` is that step's input: a map, so that any worker can make any step."""

    def __init__(self, data: TrainingData, layout: Layout, plan: SamplingPlan, steps: int) -> None:
        self._data, self._layout, self._plan, self._steps = data, layout, plan, steps
        if len(data) == 0:
            raise ConfigError("there is no training step: the split has no training demonstrations")

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> StepInput:
        chosen = numbers_of_step(step, self._plan.seed, self._plan.global_batch, len(self._data))
        drawn = [self._draw(epoch, number) for epoch, number in chosen]
        groups = micro_batches([reasons for _, _, reasons in drawn], self._plan)
        batches = tuple(
            collate([drawn[i][0] for i in group], np.stack([drawn[i][1] for i in group]), self._layout)
            for group in groups
        )
        return StepInput(batches, role_totals([sequence for sequence, _, _ in drawn]))

    def _draw(self, epoch: int, number: int) -> tuple[TokenSequence, np.ndarray, bool]:
        """One sample as tokens and image, and whether it reasons."""
        plan = self._plan
        key = (plan.seed, epoch, *self._data.where(number))
        other = partial(self._data.elsewhere, number)
        sample = corrupted(self._data.sample(number), self._layout.phase, other, plan.seed, epoch)
        written = spans(self._layout, sample, draw_dropped(plan.variant, plan.reasoning_dropout_prob, *key))
        image = (
            shift_image(sample.image, plan.shift_px, sample_generator(*key, "shift")) if plan.shift_px else sample.image
        )
        return flatten(written), image, len(written) > 2  # more than the prompt and the action


def micro_batches(reasons: Sequence[bool], plan: SamplingPlan) -> list[list[int]]:
    """Positions of a global batch that are this process's, in pieces of at most batch_size.

    Samples with and without reasoning are dealt out apart: long and short sequences do not pad each other, and every
    process gets as many of each. The loss does not notice, as its totals are those of the whole.
    """
    dealt = sorted(range(len(reasons)), key=reasons.__getitem__)[plan.process :: plan.processes]
    kinds = ([i for i in dealt if not reasons[i]], [i for i in dealt if reasons[i]])
    size = plan.batch_size
    return [kind[i : i + size] for kind in kinds for i in range(0, len(kind), size)]


def role_totals(sequences: Sequence[TokenSequence]) -> dict[Role, float]:
    """Sum of the targets' loss weights per role; roles without a target are left out."""
    weights = np.concatenate([s.weights for s in sequences])
    roles = np.concatenate([s.roles for s in sequences])
    sums = np.bincount(roles, weights, minlength=len(ROLES))
    return {role: float(total) for role, total in zip(ROLES, sums, strict=True) if total > 0}
