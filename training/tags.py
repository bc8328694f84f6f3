"""Which tag of the reasoning a token belongs to, read off the tokens: for the accuracy of each tag in metrics.jsonl."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from configs.choices import Role
from training.layout import ACTION_TAG, ROLES, Layout
from training.reasoning_text import TAGS

NO_TAG = -1
_TEXT = ROLES.index(Role.TEXT)


def tag_numbers(ids: np.ndarray, roles: np.ndarray, layout: Layout) -> np.ndarray:
    """Number in TAGS of each token, NO_TAG outside the reasoning's text; int64 [T] each.

    A tag's own tokens count to it. Tags begin a word, and texts cannot contain them (`render_reasoning`), so
    they stand as the same tokens wherever they stand.
    """
    out = np.full(len(ids), NO_TAG, np.int64)
    text = roles == _TEXT
    if not text.any():
        return out
    begin = int(text.argmax())
    openings, within = _tokens_of_tags(layout)
    starts = [(begin, number) for tag, number in openings if _stands(ids, begin, tag)]
    for tag, number in within:
        places = np.flatnonzero(ids[begin:] == tag[0]) + begin
        starts += [(int(place), number) for place in places if _stands(ids, int(place), tag)]
    for (start, number), (end, _) in pairwise([*sorted(starts), (len(ids), NO_TAG)]):
        out[start:end] = number
    return np.where(text, out, NO_TAG)


def _stands(ids: np.ndarray, place: int, tag: tuple[int, ...]) -> bool:
    return tuple(ids[place : place + len(tag)]) == tag


_Tags = tuple[tuple[tuple[int, ...], int], ...]


@lru_cache(maxsize=4)
def _tokens_of_tags(layout: Layout) -> tuple[_Tags, _Tags]:
    """Tags as they open a text, and within one, where ACTION ends the last."""
    opening = tuple((tuple(layout.encode_text(f"{tag}:")), number) for number, tag in enumerate(TAGS))
    within = tuple((tuple(layout.encode_text(f" {tag}:")), number) for number, tag in enumerate(TAGS))
    return opening, (*within, (tuple(layout.encode_text(f" {ACTION_TAG}".rstrip())), NO_TAG))
