"""Settings of what a model must write, and of how often it does in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from configs.building import added, not_in_key
from configs.checks import check, in_range
from configs.choices import Component, Corruption, DropoutVariant, Role


@dataclass(frozen=True)
class Segment:
    """One stretch of the assistant turn."""

    role: Role
    source: str  # key in Sample.parts: reasoning, flow, action
    loss_weight: float = 1.0
    without: tuple[Component, ...] = added(())  # of a text: never written, in training or at test time
    corrupt: Corruption = added(Corruption.NONE)
    static_weight: float = added(0.25)  # of a flow code that says "no motion", beside 1 for every other code

    def __post_init__(self) -> None:
        in_range("phase.segments.loss_weight", self.loss_weight, 0)
        in_range("phase.segments.static_weight", self.static_weight, 0, 1)
        check(
            self.role is Role.TEXT or not (self.without or self.corrupt is Corruption.NOISY_BOXES),
            f"phase.segments: role {self.role.value!r} has no components and no boxes; `without` and "
            "`corrupt: noisy_boxes` are for role 'text'",
        )
        check(
            self.role is not Role.ACTION or self.corrupt is Corruption.NONE,
            "phase.segments: the action is never corrupted",
        )
        check(
            self.role is Role.FLOW or self.static_weight == Segment.static_weight,
            f"phase.segments: role {self.role.value!r} has no static code; `static_weight` is for role 'flow'",
        )
        check(
            len(set(self.without)) < len(Component),
            "phase.segments.without names every component; leave the segment out instead",
        )


@dataclass(frozen=True)
class PhaseSpec:
    """A phase is data: what the model must write, in which order. The last segment is the action."""

    name: str
    segments: tuple[Segment, ...]
    label: str = not_in_key("")  # what tables call it; empty: its name

    def __post_init__(self) -> None:
        check(
            bool(self.segments) and self.segments[-1].role is Role.ACTION,
            f"phase.segments of {self.name!r}: the last segment must have role 'action'",
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """What must exist besides actions; the stages needed follow from it."""
        return tuple(s.source for s in self.segments if s.role is not Role.ACTION)

    def leaving_out(self, components: Collection[Component]) -> PhaseSpec:
        """The same phase, whose texts never have these components."""
        segments = tuple(
            dataclasses.replace(s, without=tuple(c for c in Component if c in (*components, *s.without)))
            if s.role is Role.TEXT
            else s
            for s in self.segments
        )
        return dataclasses.replace(self, segments=segments)


@dataclass(frozen=True)
class ReasoningDropout:
    """`prob` is the probability that a training sample has no reasoning; of variant `component`, each tag's own."""

    prob: float = 0.5
    cot_loss_weight: float = 0.5  # the phase files interpolate it into their non-action segments
    variant: DropoutVariant = DropoutVariant.WHOLE
    scheduled_stage: int = 0  # of variant `stage`: the first components, never written; 0: all are

    def __post_init__(self) -> None:
        in_range("reasoning_dropout.prob", self.prob, 0, 1)
        in_range("reasoning_dropout.cot_loss_weight", self.cot_loss_weight, 0)
        in_range("reasoning_dropout.scheduled_stage", self.scheduled_stage, 0, len(Component) - 1)
        check(
            self.scheduled_stage == 0 or self.variant is DropoutVariant.STAGE,
            f"reasoning_dropout.scheduled_stage={self.scheduled_stage} needs reasoning_dropout.variant=stage",
        )

    def trimmed(self, phase: PhaseSpec) -> PhaseSpec:
        """What the phase writes at this stage of the schedule, in training and at test time."""
        return phase.leaving_out(tuple(Component)[: self.scheduled_stage])
