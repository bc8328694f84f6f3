"""How long a chain of thought is: tokens per tag over a file of annotations, and how many samples decoding would cut.

Training writes every token; `eval.max_new_tokens` limits what a policy may write before it has to act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from configs.choices import Component
from data_pipeline.contract import Annotation, StepReasoning
from training.layout import ACTION_TAG, FLOW_TAG
from training.reasoning_text import TAGS, render_reasoning

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Lengths:
    """Tokens of one part, over the steps that have it."""

    name: str
    tokens: np.ndarray  # int [N]

    def __str__(self) -> str:
        """A line of the table."""
        if not len(self.tokens):
            return f"  {self.name:<18} {'-':>6} {'-':>5} {'-':>5}"
        mean, p95, most = self.tokens.mean(), np.percentile(self.tokens, 95, method="higher"), self.tokens.max()
        return f"  {self.name:<18} {mean:6.1f} {p95:5d} {most:5d}"


@dataclass(frozen=True)
class TokenCounts:
    """Of every step that has a reasoning."""

    tags: tuple[Lengths, ...]  # in the sequence's order
    text: Lengths  # all of them
    written: Lengths  # what a policy writes after its first tag: the rest of the text, flow if any, the tag ACTION

    def cut(self, limit: int) -> float:
        """Share of samples that need more than `limit` new tokens."""
        return float((self.written.tokens > limit).mean()) if len(self.written.tokens) else 0.0

    def lines(self, limit: int) -> list[str]:
        """The table, for people."""
        return [
            f"  {'tokens of':<18} {'mean':>6} {'p95':>5} {'max':>5}",
            *(str(lengths) for lengths in (*self.tags, self.text, self.written)),
            f"  cut at eval.max_new_tokens={limit}: {100 * self.cut(limit):.1f} % of {len(self.text.tokens)} samples",
        ]


def count_tokens(annotations: Iterable[Annotation], encode: Encode, flow_codes: int = 0) -> TokenCounts:
    """Tokens of each tag with its value, as the sequence has them. flow_codes: of one step, 0 without flow."""
    length = cache(lambda text: len(encode(text)))  # values repeat from step to step
    steps = [step for annotation in annotations for step in annotation.steps if step is not None]
    rows = np.array([[_piece(step, component, length) for component in Component] for step in steps], int)
    rows = rows.reshape(len(steps), len(Component))
    text = rows.sum(1)
    opening = [length(f"{next(tag for tag, n in zip(TAGS, row, strict=True) if n)}:") for row in rows]
    flow = length(f" {FLOW_TAG}") + flow_codes if flow_codes else 0
    written = text - np.array(opening, int) + flow + length(f" {ACTION_TAG}")
    per_tag = (Lengths(tag, column[column > 0]) for tag, column in zip(TAGS, rows.T, strict=True))
    return TokenCounts(tuple(per_tag), Lengths("the whole text", text), Lengths("written to act", written))


def _piece(step: StepReasoning, component: Component, length: Callable[[str], int]) -> int:
    """Tokens of a tag with its value; 0 where the step has none. All but the first piece begin with a space."""
    text = render_reasoning(step, without=[c for c in Component if c is not component])
    first = next(c for c in Component if c not in step.absent)
    return length(text if component is first else f" {text}") if text else 0
