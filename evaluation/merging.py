"""Does a merged checkpoint say what its adapter says on the base? Both read the same held-out steps.

The merged model decodes greedily (constrained, without reasoning); then both read its sequences once, and at every
position that writes the action the whole vocabulary's logits are compared, and the best code that may stand there.
Where all of those agree the adapter by itself would have decoded the same, by induction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from configs.choices import Role
from evaluation.generation import Generator, Request
from evaluation.interface import Interface
from evaluation.policy import barred_from_text
from training.batch import collate
from training.layout import Span, action_tag_ids, flatten, inference_prefix
from training.loaded_policy import LoadedPolicy
from training.network import Network

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest difference of a logit that merging may make. Logits of this class reach about 30, where a step of bf16 is
0.125 to 0.25; in fp32 only the order of sums differs."""


@dataclass(frozen=True)
class Shown:
    """What a policy is asked."""

    image: np.ndarray  # uint8 [R, R, 3], ImageFrame.GL
    instruction: str


@dataclass(frozen=True)
class Parity:
    """Two models on the same steps."""

    steps: int
    tokens: int  # of the first one's greedy chunks, ends included
    equal: int  # of them, those that the second one would have written
    largest: float  # difference of a logit, over all positions and the whole vocabulary

    def within(self, tolerance: float) -> bool:
        """Whether one may stand for the other."""
        return self.equal == self.tokens and self.largest <= tolerance

    def __str__(self) -> str:
        return (
            f"{self.steps} steps, {self.equal} of {self.tokens} greedy action tokens equal, largest difference of a "
            f"logit {self.largest:.3g}"
        )


@torch.no_grad()
def compare(merged: LoadedPolicy, other: Any, shown: Sequence[Shown]) -> Parity:
    """other: a bare model with whatever is attached to it, in evaluation mode, on the same device."""
    layout, vocabulary = merged.layout, merged.layout.vocabulary
    interface = Interface(merged.action_tokenizer, merged.statistics, merged.card.image_size)
    rows = merged.model.get_input_embeddings().num_embeddings
    generator = Generator(
        merged.model,
        vocabulary,
        interface.constraint,
        action_tag_ids(layout),
        barred_from_text(vocabulary, merged.tokenizer, rows),
        merged.card.image_size,
        fixed_shapes=False,
    )
    tokens = equal = 0
    largest = 0.0
    for one in shown:
        image, prompt = interface.see(one.image), inference_prefix(layout, one.instruction)
        request = Request(prompt, image)
        (written,) = generator.generate([request], len(prompt), think=False, max_new_tokens=0)
        ids = (*(vocabulary.action_start + code for code in written.codes), vocabulary.end)
        sequence = flatten([Span(prompt, Role.PROMPT), Span(ids, Role.ACTION)])
        batch = collate([sequence], image[None], layout).to(merged.model.device)
        writing = slice(len(prompt) - 1, len(prompt) - 1 + len(ids))
        first, second = (net.logits(net.hidden(batch)[0, writing]) for net in map(Network, (merged.model, other)))
        largest = max(largest, float((first - second).abs().max()))
        allowed = _allowed(interface, written.codes)
        acting = second[:-1, vocabulary.action_start : vocabulary.action_start + vocabulary.num_actions].cpu()
        best = acting.masked_fill(~torch.from_numpy(allowed), -torch.inf).argmax(-1)
        equal += int((best == torch.tensor(written.codes)).sum()) + 1  # the end is the only one left
        tokens += len(ids)
    return Parity(len(shown), tokens, equal, largest)


def _allowed(interface: Interface, codes: Sequence[int]) -> np.ndarray:
    """Bool [codes, num_codes]: what could have stood in the place of each."""
    constraint = interface.constraint
    (state, left), rows = constraint.start(1), list[np.ndarray]()
    for code in codes:
        rows.append(constraint.allowed[state[0], left[0]])
        state, left = constraint.advance(state, left, np.array([code]))
    return np.stack(rows)
