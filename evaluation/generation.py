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
from training.layout import Vocabulary


@dataclass(frozen=True)
class Request:
    """One row of a batch."""

    prompt: tuple[int, ...]  # ids with the image's placeholders
    pixels: torch.Tensor  # pixel values of its image, [patches, features]
    grid: torch.Tensor  # int64 [1, 3]: frames, rows, columns of patches


@dataclass(frozen=True)
class Written:
    """What was generated for one row."""

    text: tuple[int, ...]  # reasoning, the action tag included; () if none was asked for
    codes: tuple[int, ...]  # action codes, without the vocabulary's offset; they spell exactly one chunk
    free_decodable: bool  # every code was also the first choice of the whole vocabulary
    forced: bool  # the reasoning reached its limit and the tag was put there

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return len(self.text) + len(self.codes)


class Generator:
    """Greedy constrained decoding on one model (a Qwen2_5_VLForConditionalGeneration without wrappers).

    action_tag: ids that end a reasoning. flow: whether flow tokens may be written in a reasoning.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        constraint: ActionConstraint,
        action_tag: Sequence[int],
        special: Sequence[int],
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.constraint = constraint
        self.action_tag = tuple(action_tag)
        self._device = next(model.parameters()).device
        self._table = self._masks(model.get_input_embeddings().num_embeddings, special).to(self._device)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], length: int, *, think: bool, max_new_tokens: int) -> list[Written]:
        """Decode one batch; every prompt is padded on the left to `length` tokens.

        think: write text until the action tag, at most max_new_tokens, then a chunk; otherwise a chunk at once.
        """
        rows = _Rows(self.constraint, self.vocabulary, self.action_tag, len(requests), max_new_tokens, think=think)
        stream = Stream(self.model, requests, length, self.vocabulary)
        while True:
            logits = stream.logits
            table_rows = torch.from_numpy(rows.table_rows()).to(self._device)
            best = logits.masked_fill(~self._table[table_rows], -torch.inf).argmax(-1).cpu().numpy()
            tokens = rows.accept(best, logits.argmax(-1).cpu().numpy())
            if rows.done:
                return rows.written()
            stream.append(tokens)

    def _masks(self, vocab_size: int, special: Sequence[int]) -> torch.Tensor:
        """Bool [1 + S * (total + 1), V]: row 0 is text, row 1 + state * (total + 1) + left is an action."""
        vocabulary, allowed = self.vocabulary, self.constraint.allowed
        first, last = vocabulary.action_start, vocabulary.action_start + vocabulary.num_actions
        table = np.zeros((1 + allowed.shape[0] * allowed.shape[1], vocab_size), bool)
        table[1:, first:last] = allowed.reshape(-1, allowed.shape[-1])
        table[1, vocabulary.pad] = True  # state 0, nothing left: done
        table[0] = True
        table[0, first:last] = False
        table[0, list(special)] = False
        return torch.from_numpy(table)


class _Rows:
    """Where each row of a batch stands."""

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
        self._state, self._left = constraint.start(count)
        self._text: list[list[int]] = [[] for _ in range(count)]
        self._codes: list[list[int]] = [[] for _ in range(count)]
        self._writing = np.full(count, think)
        self._forced: list[list[int]] = [[] for _ in range(count)]  # tag ids still to be put
        self._cut = np.zeros(count, bool)
        self._free = np.ones(count, bool)
        self._think = think

    @property
    def done(self) -> bool:
        """Whether every row has spelled its chunk."""
        return not self._writing.any() and not self._left.any() and not self._state.any()

    def table_rows(self) -> np.ndarray:
        """Row of the mask table for each row of the batch, int64 [B]."""
        action = 1 + self._state * (self._constraint.total + 1) + self._left
        return np.where(self._writing, 0, action)

    def accept(self, best: np.ndarray, unconstrained: np.ndarray) -> np.ndarray:
        """Take the best allowed ids, int64 [B]. Returns what stands in the sequence (a forced tag may differ)."""
        tokens = best.copy()
        acting = ~self._writing & ((self._left > 0) | (self._state > 0))
        for row in np.flatnonzero(self._writing):
            tokens[row] = self._accept_text(int(row), int(best[row]))
        self._accept_codes(np.flatnonzero(acting), tokens, unconstrained)
        return tokens

    def _accept_text(self, row: int, token: int) -> int:
        text = self._text[row]
        if not self._forced[row] and len(text) >= self._max_new_tokens:
            self._forced[row] = list(self._tag)
            self._cut[row] = True
        if self._forced[row]:
            token = self._forced[row].pop(0)
        text.append(token)
        if tuple(text[-len(self._tag) :]) == self._tag and not self._forced[row]:
            self._writing[row] = False
        return token

    def _accept_codes(self, rows: np.ndarray, tokens: np.ndarray, unconstrained: np.ndarray) -> None:
        codes = tokens[rows] - self._vocabulary.action_start
        for row, code in zip(rows, codes, strict=True):
            # Without reasoning the first code is the mode's choice, not the constraint's.
            if self._think or self._codes[row]:
                self._free[row] &= bool(tokens[row] == unconstrained[row])
            self._codes[row].append(int(code))
        self._state[rows], self._left[rows] = self._constraint.advance(self._state[rows], self._left[rows], codes)

    def written(self) -> list[Written]:
        """The finished rows."""
        return [
            Written(tuple(text), tuple(codes), bool(free), bool(cut))
            for text, codes, free, cut in zip(self._text, self._codes, self._free, self._cut, strict=True)
        ]


class Stream:
    """A batch of growing sequences: `logits` float [B, V] after the last token of each."""

    def __init__(self, model: Any, requests: Sequence[Request], length: int, vocabulary: Vocabulary) -> None:
        ids, mask = pad_left([r.prompt for r in requests], length, vocabulary.pad)
        device = next(model.parameters()).device
        input_ids = torch.from_numpy(ids).to(device)
        self._model = model
        self._mask = torch.from_numpy(mask).to(device)  # int64 [B, T]
        types = (input_ids == vocabulary.image).int()  # without them the positions would silently be one-dimensional
        grid = torch.cat([r.grid for r in requests]).to(device)
        pixels = torch.cat([r.pixels for r in requests]).to(device=device, dtype=model.dtype)
        core = model.model
        positions, _ = core.get_rope_index(input_ids, types, image_grid_thw=grid, attention_mask=self._mask)
        out = core(
            input_ids=input_ids,
            attention_mask=self._mask,
            position_ids=positions,
            pixel_values=pixels,
            image_grid_thw=grid,
            mm_token_type_ids=types,
            use_cache=True,
        )
        self._cache = out.past_key_values
        # The next position follows the largest one, and an image takes fewer positions than tokens.
        self._next = positions.amax(dim=(0, 2))[None, :, None].expand(3, -1, -1) + 1  # [3, B, 1]
        self.logits = self._head(out.last_hidden_state)

    def append(self, tokens: np.ndarray) -> None:
        """Add one token per row, int64 [B]."""
        ids = torch.from_numpy(tokens).to(self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        language = self._model.model.language_model
        out = language(
            inputs_embeds=language.embed_tokens(ids),
            attention_mask={"full_attention": self._attention(language)},
            position_ids=self._next,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next = self._next + 1
        self.logits = self._head(out.last_hidden_state)

    def _attention(self, language: Any) -> torch.Tensor:
        """What one new token may look at: [B, 1, 1, K], additive (eager and sdpa both take it)."""
        hidden = (self._mask == 0)[:, None, None, :]
        return torch.zeros(hidden.shape, dtype=language.dtype, device=hidden.device).masked_fill_(
            hidden, torch.finfo(language.dtype).min
        )

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.lm_head(hidden[:, -1]).float()


def pad_left(prompts: Sequence[Sequence[int]], length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and attention mask, int64 [B, length] each."""
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros((len(prompts), length), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return ids, mask
