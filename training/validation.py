"""Held-out demonstrations -> figures of a training run: what the action costs after no, true, own and wrong reasoning.

Teacher forcing lets the action attend to the true reasoning, and to the true future flow in it; a policy has only what
it writes itself. So the action's loss is measured on the same steps with each of these before it: nothing, the truth,
what the model writes, and, source by source, another demonstration's part in the place of the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from configs.choices import Corruption, Role
from configs.model import ValidationConfig
from configs.phases import PhaseSpec
from data_pipeline.contract import Sample
from training.action_tokenizer import FastTokenizer
from training.batch import Batch, collate
from training.corruption import corrupted
from training.dataset import TrainingData
from training.flow_figures import Decode, FlowCodes, FlowReader
from training.layout import EVERYTHING, Layout, Span, flatten, opening_ids, spans
from training.loss import TokenLosses, role_shares
from training.sampling import role_totals

ROOM = 1.25
"""A model may write so many times the tokens of the longest true reasoning."""

Forward = Callable[[Batch], TokenLosses]
"""One forward pass, in evaluation mode."""


@dataclass(frozen=True)
class Said:
    """What a model wrote by itself after a prompt."""

    text: tuple[int, ...]  # ids, the action's tag included; () where it was to act at once
    codes: tuple[int, ...]  # of the action; they spell one chunk


Act = Callable[[Sequence[tuple[int, ...]], np.ndarray, int, int], list[Said]]
"""(prompts, images uint8 [N, S, S, 3], most tokens of reasoning; 0: act at once, rows at a time) -> what follows."""


@dataclass(frozen=True)
class Instruments:
    """What training cannot import: how a policy decodes, and what flow codes mean."""

    actor: Callable[[Any, Any, FastTokenizer, Layout], Act]  # of (PeftModel, tokenizer, actions, layout)
    decode: Decode | None  # None without flow, or of flow tokens that came without their tokenizer


Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Validation:
    """What is measured, on which steps."""

    data: TrainingData  # of held-out demonstrations, at least one
    layout: Layout
    config: ValidationConfig  # steps are spread evenly; all of them where there are fewer
    rows: int  # samples of one forward pass
    seed: int  # of what takes the place of true parts
    actions: FastTokenizer
    act: Act
    flow: FlowReader | None  # None where the phase has no flow

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to measure after `step` of `steps`."""
        return step % self.config.every == 0 or step == steps

    def measure(self, forward: Forward) -> dict[str, float]:
        """Figures for metrics.jsonl, each named test_…; a phase without reasoning has those of `none` alone.

        `action_loss_…`: of the true action; `action_error_…`: of the action decoded, mean difference per entry,
        normalised. `flow_…`: see FlowReader; `generated_flow_…`: of what the model wrote.
        """
        last = len(self.data) - 1
        numbers = [int(n) for n in np.linspace(0, last, min(self.config.samples, last + 1)).round()]
        images = np.stack([self.data.frames[number] for number in numbers])
        samples = [self.data.sample(number) for number in numbers]
        cost, error = partial(self._cost, images=images, forward=forward), partial(self._error, samples)
        silent = [spans(self.layout, sample, EVERYTHING) for sample in samples]
        out = {
            "test_action_loss_none": cost(silent)[0][Role.ACTION],
            "test_action_error_none": error(self.act([row[0].ids for row in silent], images, 0, self.rows)),
        }
        if not opening_ids(self.layout):
            return out
        truth = [spans(self.layout, sample) for sample in samples]
        said = self._say(truth, images)
        losses, codes = cost(truth)
        after_own = [(t[0], Span(s.text, Role.PROMPT), t[-1]) for s, t in zip(said, truth, strict=True)]
        out |= {
            "test_action_loss_true": losses.pop(Role.ACTION),
            "test_action_loss_generated": cost(after_own)[0][Role.ACTION],
            "test_action_error_generated": error(said),
        }
        for source in dict.fromkeys(self.layout.phase.sources) if len(self.data.episodes) > 1 else ():
            wrong = [spans(self.layout, self._shuffled(number, source)) for number in numbers]
            out[f"test_action_loss_shuffled_{source}"] = cost(wrong)[0][Role.ACTION]
        out |= {f"test_loss_{role.value}": loss for role, loss in losses.items()}
        return out | self._flow_figures(codes, said, truth)

    def _cost(
        self, written: Sequence[Spans], images: np.ndarray, forward: Forward
    ) -> tuple[dict[Role, float], list[FlowCodes]]:
        """Each role's mean loss, and the flow codes that were predicted on the way."""
        sequences = [flatten(row) for row in written]
        totals = role_totals(sequences)
        losses, codes = dict.fromkeys(totals, 0.0), list[FlowCodes]()
        for start in range(0, len(sequences), self.rows):
            part = slice(start, start + self.rows)
            tokens = forward(collate(sequences[part], images[part], self.layout))
            for role, share in role_shares(tokens, totals).items():
                losses[role] += share.item()
            if self.flow is not None:
                codes.append(self.flow.read(tokens))
        return losses, codes

    def _say(self, truth: Sequence[Spans], images: np.ndarray) -> list[Said]:
        """What the model writes at each step; the first tag is given, as at test time."""
        opening = opening_ids(self.layout)
        most = int(ROOM * max(sum(len(span.ids) for span in reasoning) for _, *reasoning, _ in truth))
        said = self.act([(*prompt.ids, *opening) for prompt, *_ in truth], images, most, self.rows)
        return [Said((*opening, *row.text), row.codes) for row in said]

    def _error(self, samples: Sequence[Sample], said: Sequence[Said]) -> float:
        action = self.layout.phase.segments[-1].source
        pairs = zip(samples, said, strict=True)
        return float(np.mean([np.abs(self.actions.decode(s.codes) - sample.parts[action]) for sample, s in pairs]))

    def _shuffled(self, number: int, source: str) -> Sample:
        """A held-out sample with one part of another demonstration."""
        phase, other = _shuffling(self.layout.phase, source), partial(self.data.elsewhere, number)
        return corrupted(self.data.sample(number), phase, other, self.seed, epoch=0)

    def _flow_figures(
        self, forced: Sequence[FlowCodes], said: Sequence[Said], truth: Sequence[Spans]
    ) -> dict[str, float]:
        if self.flow is None:
            return {}
        pairs = zip(said, truth, strict=True)
        written = [self.flow.compare(s.text, [i for span in t for i in span.ids]) for s, t in pairs]
        named = {"test_": self.flow.figures(forced), "test_generated_": self.flow.figures(written)}
        return {f"{prefix}{key}": value for prefix, figures in named.items() for key, value in figures.items()}


def _shuffling(phase: PhaseSpec, source: str) -> PhaseSpec:
    """The phase with that source's segments shuffled, and nothing else corrupt."""
    kinds = {True: Corruption.SHUFFLED, False: Corruption.NONE}
    return replace(phase, segments=tuple(replace(s, corrupt=kinds[s.source == source]) for s in phase.segments))
