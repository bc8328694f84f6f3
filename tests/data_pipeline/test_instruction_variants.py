"""The sentence alone is changed: by words, by length, or into another task's."""

from __future__ import annotations

import numpy as np
import pytest

from configs.choices import Subset
from data_pipeline.instruction_variants import vary
from data_pipeline.libero_utils import instruction, task_names

SUITES = {subset: [instruction(name) for name in task_names(subset)] for subset in Subset}
SENTENCES = [(subset, sentence) for subset, suite in SUITES.items() for sentence in suite]


def variant(subset: Subset, sentence: str, strength: int, seed: int) -> str:
    return vary(sentence, strength, SUITES[subset], np.random.default_rng(seed))


@pytest.mark.parametrize(("subset", "sentence"), SENTENCES)
def test_every_sentence_changes_at_every_strength_and_the_same_draw_says_the_same(
    subset: Subset, sentence: str
) -> None:
    for seed in range(20):
        reworded, longer, other = (variant(subset, sentence, strength, seed) for strength in (1, 2, 3))
        assert reworded != sentence
        assert reworded not in SUITES[subset]
        assert len(longer) > len(reworded)
        assert other in {*SUITES[subset], ""} - {sentence}
        assert other == variant(subset, sentence, 3, seed)


def test_rewording_keeps_every_thing_and_place_of_the_sentence() -> None:
    sentence = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    for seed in range(50):
        for strength in (1, 2):
            said = variant(Subset.SPATIAL, sentence, strength, seed)
            assert all(word in said for word in ("black bowl", "between the plate and the ramekin", "the plate"))


def test_a_place_stays_a_place() -> None:
    """`put the bowl onto` would do; `pick up the bowl onto the stove` would not."""
    sentence = "pick up the black bowl on the stove and place it on the plate"
    said = {variant(Subset.SPATIAL, sentence, 1, seed) for seed in range(100)}
    assert len(said) > 10
    assert not any("onto" in text for text in said)


def test_the_control_reaches_every_other_sentence_and_none() -> None:
    sentence = SUITES[Subset.GOAL][0]
    assert {variant(Subset.GOAL, sentence, 3, seed) for seed in range(300)} == {*SUITES[Subset.GOAL][1:], ""}
