"""What a model in training writes and does by itself: the policy's own decoding, on a merged copy of its weights.

Merging into the model itself, and taking it out again, would leave rounding behind in what is being trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.generation import Generator, Request
from evaluation.interface import constraint_of
from evaluation.policy import barred_from_text
from training.action_tokenizer import FastTokenizer
from training.layout import Layout, action_tag_ids
from training.lora_model import merged_copy
from training.validation import Said


@dataclass(frozen=True)
class FreeRunning:
    """An `Act` of training.validation."""

    model: Any  # a PeftModel, which is copied, or a bare model; in evaluation mode
    tokenizer: Any
    actions: FastTokenizer
    layout: Layout

    def __call__(self, prompts: Sequence[tuple[int, ...]], images: np.ndarray, most: int, rows: int) -> list[Said]:
        """Decode greedily, so many rows at a time. most: tokens of reasoning; 0: act at once."""
        model = merged_copy(self.model)
        generator = Generator(
            model,
            self.layout.vocabulary,
            constraint_of(self.actions),
            action_tag_ids(self.layout),
            barred_from_text(self.layout.vocabulary, self.tokenizer, model.get_input_embeddings().num_embeddings),
            images.shape[1],
            fixed_shapes=False,
        )
        requests = [Request(*pair) for pair in zip(prompts, images, strict=True)]
        out: list[Said] = []
        for start in range(0, len(requests), rows):
            part = requests[start : start + rows]
            longest = max(len(request.prompt) for request in part)
            written = generator.generate(part, longest, think=most > 0, max_new_tokens=most)
            out += [Said(row.text, row.codes) for row in written]
        return out
