"""Greedy decoding with a key-value cache, for prompts with one image each: free text first if asked, then a chunk.

Own loop instead of `generate`: the automaton decides what may come next, and at small sizes a forward pass costs less
than the library's book-keeping. Shapes: B rows, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.decoding import ActionConstraint
from evaluation.language_model import LanguageModel
from training.batch import rope_positions
from training.layout import Vocabulary
from training.vision_tower import VisionTower


@dataclass(frozen=True)
class Request:
    """One row of a batch."""

    prompt: tuple[int, ...]  # ids with the image's placeholders
    image: np.ndarray  # uint8 [S, S, 3], as the policy sees it


@dataclass(frozen=True)
class Written:
    """What was generated for one row."""

    text: tuple[int, ...]  # reasoning, the action tag included; () if none was asked for
    codes: tuple[int, ...]  # action codes, without the vocabulary's offset; they spell exactly one chunk
    free_decodable: bool  # decoding without the constraint would have written these codes and then ended
    forced: bool  # the reasoning reached its limit and the tag was put there

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return len(self.text) + len(self.codes)


class Generator:
    """Greedy constrained decoding on one model (a Qwen2_5_VLForConditionalGeneration without wrappers).

    action_tag: ids that end a reasoning. special: ids that a reasoning cannot hold. fixed_shapes: see LanguageModel.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        constraint: ActionConstraint,
        action_tag: Sequence[int],
        special: Sequence[int],
        image_size: int,
        *,
        fixed_shapes: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._constraint = constraint
        self._action_tag = tuple(action_tag)
        self._stream = Stream(model, vocabulary, image_size, fixed_shapes=fixed_shapes)
        self._table = self._masks(model.get_input_embeddings().num_embeddings, special).to(model.device)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], length: int, *, think: bool, max_new_tokens: int) -> list[Written]:
        """Decode one batch; every prompt is padded on the left to `length` tokens.

        think: write text until the action tag, at most max_new_tokens, then a chunk; otherwise a chunk at once.
        """
        rows = _Rows(self._constraint, self._vocabulary, self._action_tag, len(requests), max_new_tokens, think=think)
        logits = self._stream.start(requests, length, rows.most_tokens)
        while True:
            tokens = rows.accept(*self._choose(logits, rows))
            if rows.done:
                return rows.written()
            logits = self._stream.append(tokens)

    def _choose(self, logits: torch.Tensor, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """The best allowed id of each row, and the best one without the constraint; int64 [B] each."""
        allowed = self._table[torch.from_numpy(rows.table_rows()).to(logits.device)]
        best = torch.where(allowed, logits, -torch.inf).argmax(-1)
        if rows.begins_acting:  # that a code comes first is the mode's choice, not the constraint's
            first = self._vocabulary.action_start
            free = logits[:, first : first + self._vocabulary.num_actions].argmax(-1) + first
        else:
            free = logits.argmax(-1)
        chosen = torch.stack([best, free]).cpu().numpy()  # one transfer
        return chosen[0], chosen[1]

    def _masks(self, vocab_size: int, special: Sequence[int]) -> torch.Tensor:
        """Bool [1 + S * (total + 1), V]: row 0 is text, row 1 + state * (total + 1) + left is an action."""
        vocabulary, allowed = self._vocabulary, self._constraint.allowed
        first, last = vocabulary.action_start, vocabulary.action_start + vocabulary.num_actions
        table = np.zeros((1 + allowed.shape[0] * allowed.shape[1], vocab_size), bool)
        table[1:, first:last] = allowed.reshape(-1, allowed.shape[-1])
        table[1, vocabulary.end] = True  # state 0, nothing left: the chunk is whole
        table[0] = True
        table[0, first:last] = False
        table[0, list(special)] = False
        return torch.from_numpy(table)


class _Rows:
    """Where each row of a batch stands. Every row that is not done gets a token at each step."""

    def __init__(
        self,
        constraint: ActionConstraint,
        vocabulary: Vocabulary,
        action_tag: tuple[int, ...],
        count: int,
        max_new_tokens: int,
        *,
        think: bool,
    ) -> None:
        self._constraint = constraint
        self._vocabulary = vocabulary
        self._tag = action_tag
        self._max_new_tokens = max_new_tokens
        self._think = think
        self._state, self._left = constraint.start(count)
        self._steps: list[np.ndarray] = []  # what stands in the sequences, int64 [B] each
        self._writing = np.full(count, think)
        self._ended = np.zeros(count, bool)
        self._text = np.zeros(count, np.int64)  # tokens of text
        self._codes = np.zeros(count, np.int64)  # tokens of action after them
        self._cut = np.zeros(count, bool)
        self._free = np.ones(count, bool)

    @property
    def most_tokens(self) -> int:
        """No row writes more."""
        text = self._max_new_tokens + len(self._tag) if self._think else 0
        return text + self._constraint.longest

    @property
    def begins_acting(self) -> bool:
        """Whether the next token is the first of all, and a code."""
        return not self._steps and not self._think

    @property
    def done(self) -> bool:
        """Whether every row has spelled its chunk and ended."""
        return bool(self._ended.all())

    def table_rows(self) -> np.ndarray:
        """Row of the mask table for each row of the batch, int64 [B]."""
        action = 1 + self._state * (self._constraint.total + 1) + self._left
        return np.where(self._writing, 0, action)

    def accept(self, best: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Take the best allowed ids, int64 [B]. Returns what stands in the sequence (a forced tag may differ).

        free: the best ids without the constraint.
        """
        tokens, acting = best.copy(), ~self._writing & ~self._ended
        if self._writing.any():
            self._accept_text(tokens)
        self._free[acting] &= tokens[acting] == free[acting]
        whole = (self._state == 0) & (self._left == 0)
        self._ended |= acting & whole
        self._accept_codes(np.flatnonzero(acting & ~whole), tokens)
        self._steps.append(tokens)
        return tokens

    def _accept_text(self, tokens: np.ndarray) -> None:
        """Rows that write have written since the first step, so they all reach the limit together."""
        forced = len(self._steps) - self._max_new_tokens  # position in a tag that is put there
        if forced >= 0:
            tokens[self._writing] = self._tag[forced]
            self._cut |= self._writing
        self._text += self._writing
        tail = np.stack([*self._steps, tokens][-len(self._tag) :], axis=1)
        pending = 0 <= forced < len(self._tag) - 1
        if tail.shape[1] == len(self._tag) and not pending:
            self._writing &= (tail != self._tag).any(1)

    def _accept_codes(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        codes = tokens[rows] - self._vocabulary.action_start
        self._codes[rows] += 1
        self._state[rows], self._left[rows] = self._constraint.advance(self._state[rows], self._left[rows], codes)

    def written(self) -> list[Written]:
        """The finished rows."""
        tokens = np.stack(self._steps, axis=1)
        out: list[Written] = []
        for row, (text, codes) in enumerate(zip(self._text, self._codes, strict=True)):
            spelled = tokens[row, text : text + codes] - self._vocabulary.action_start
            written = tuple(tokens[row, :text].tolist()), tuple(spelled.tolist())
            out.append(Written(*written, free_decodable=bool(self._free[row]), forced=bool(self._cut[row])))
        return out


class Stream:
    """Batches of growing sequences on one model, one at a time; logits are float [B, V], after the last token."""

    def __init__(self, model: Any, vocabulary: Vocabulary, image_size: int, *, fixed_shapes: bool) -> None:
        self._vocabulary = vocabulary
        self._embed, self._head = model.get_input_embeddings(), model.lm_head
        self._vision = VisionTower(model.model.visual, image_size)
        self._language = LanguageModel(model.model.language_model, fixed_shapes=fixed_shapes)
        self._appended = 0

    def start(self, requests: Sequence[Request], length: int, most_tokens: int) -> torch.Tensor:
        """Read prompts padded on the left to `length`; at most `most_tokens` may follow."""
        ids, mask = pad_left([r.prompt for r in requests], length, self._vocabulary.pad)
        device = self._embed.weight.device
        input_ids, shown = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
        positions = torch.from_numpy(rope_positions(ids, mask, self._vocabulary.image)).to(device)
        seen = self._vision(torch.from_numpy(np.stack([r.image for r in requests])).to(device))
        placeholder = (input_ids == self._vocabulary.image)[..., None]
        embeddings = self._embed(input_ids).masked_scatter(placeholder, seen)
        self._appended = 0
        return self._logits(self._language.start(embeddings, positions, shown, most_tokens))

    def append(self, tokens: np.ndarray) -> torch.Tensor:
        """Add one token per row, int64 [B]."""
        ids = torch.from_numpy(tokens).to(self._embed.weight.device)
        self._appended += 1
        return self._logits(self._language.step(ids, self._appended - 1))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden).float()


def pad_left(prompts: Sequence[Sequence[int]], length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 [B, length], and a mask bool [B, length] that is False for padding."""
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = True
    return ids, mask
