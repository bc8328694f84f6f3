"""The sentence of a task, said otherwise. Pure; the words of a variant follow from the sentence and the draws alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_SYNONYMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pick up", ("grab", "take", "lift")),
    ("turn on", ("switch on", "start")),
    ("turn off", ("switch off", "shut off")),
    ("stack", ("pile", "put")),
    ("put", ("set", "place", "lay")),
    ("place", ("put", "set", "lay")),
    ("push", ("slide", "move", "shove")),
    ("open", ("pull open", "draw out")),
    ("close", ("shut", "push shut")),
    ("on top of", ("on", "upon")),
    ("next to", ("beside", "close by")),
    ("to the right of", ("on the right side of",)),
    ("to the front of", ("in front of",)),
    ("inside", ("in it", "into it")),
    ("in", ("inside", "within")),
    ("on", ("upon", "on top of")),
    ("from", ("off",)),
)
"""What may be said instead, the longer first where one begins another; every LIBERO sentence has one of the verbs.
Prepositions also say where something is now ("the bowl on the stove"), so that `onto` would be another task."""

_FRAMES = (
    "could you please {}, and take your time doing it?",
    "i would like you to {}. thank you very much",
    "when you are ready, and without touching anything else, {}, please",
    "here is what i need you to do for me now: {}",
    "hello robot, would you be so kind as to {}?",
)
_PHRASE = re.compile(r"\b(" + "|".join(re.escape(phrase) for phrase, _ in _SYNONYMS) + r")\b")


def vary(sentence: str, strength: int, suite: Sequence[str], rng: np.random.Generator) -> str:
    """1: other verbs and prepositions; 2: those, in a longer sentence; 3: another task's sentence, or none ("").

    suite: the sentences of all tasks of the suite.
    """
    if strength == 1:
        return _reworded(sentence, rng)
    if strength == 2:
        return _FRAMES[rng.integers(len(_FRAMES))].format(_reworded(sentence, rng))
    others = [other for other in dict.fromkeys(suite) if other != sentence]
    return [*others, ""][rng.integers(len(others) + 1)]


def _reworded(sentence: str, rng: np.random.Generator) -> str:
    choices = dict(_SYNONYMS)
    return _PHRASE.sub(lambda found: choices[found[0]][rng.integers(len(choices[found[0]]))], sentence)
