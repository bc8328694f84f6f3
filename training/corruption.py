"""A sample made wrong on purpose, as its phase says: the controls of ablations that train on bad reasoning.

Nothing here acts at test time. Draws depend on (seed, epoch, episode, step), so that neither workers nor resume change
them, and every epoch draws anew: a fixed wrong pairing could be learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from configs.choices import Corruption
from configs.phases import PhaseSpec, Segment
from data_pipeline.contract import POINT_GRID, BoundingBox, Sample, StepReasoning
from training.layout import sample_generator

BOX_NOISE = 16.0
"""Standard deviation of a displaced corner, per coordinate, in cells of the POINT_GRID: a small object's half width."""

TRIES = 32
"""Steps drawn until one has the part: steps near an episode's end have no flow."""

Elsewhere = Callable[[np.random.Generator], Sample]
"""Draws a sample of another episode."""


def corrupted(sample: Sample, phase: PhaseSpec, elsewhere: Elsewhere, seed: int, epoch: int) -> Sample:
    """The sample with the parts of corrupt segments replaced; the very same sample where there are none."""
    wrong = {
        segment.source: _replacement(segment, sample, elsewhere, seed, epoch)
        for segment in phase.segments
        if segment.corrupt is not Corruption.NONE
    }
    return replace(sample, parts={**sample.parts, **wrong}) if wrong else sample


def noisy_boxes(reasoning: StepReasoning, rng: np.random.Generator) -> StepReasoning:
    """Gaussian noise on every corner, kept on the grid and in order; the words and the gripper's track stay true."""
    return replace(reasoning, visible_objects=tuple(_displaced(box, rng) for box in reasoning.visible_objects))


def _replacement(segment: Segment, sample: Sample, elsewhere: Elsewhere, seed: int, epoch: int) -> Any:
    own = sample.parts[segment.source]
    if own is None:  # what is absent stays absent: a control differs in content alone
        return None
    purpose = f"{segment.corrupt.value} {segment.source}"
    rng = sample_generator(seed, epoch, sample.episode, sample.step, purpose)
    if segment.corrupt is Corruption.SHUFFLED:
        others = (elsewhere(rng).parts[segment.source] for _ in range(TRIES))
        return next((part for part in others if part is not None), None)
    return noisy_boxes(own, rng)


def _displaced(box: BoundingBox, rng: np.random.Generator) -> BoundingBox:
    corners = np.array([[box.x0, box.y0], [box.x1, box.y1]]) + rng.normal(0, BOX_NOISE, (2, 2))
    first, last = np.sort(np.clip(np.rint(corners), 0, POINT_GRID - 1).astype(int), axis=0)
    return BoundingBox(box.name, int(first[0]), int(first[1]), int(last[0]), int(last[1]))
