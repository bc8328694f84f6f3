"""Tokens of each tag, found again in the written sequence."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.choices import Component
from tests.helpers.tiny_adapter import TEXT_COT, TEXT_FLOW_COT
from tests.training.test_layout import layout_of, sample
from training.layout import EVERYTHING, flatten, spans
from training.lora_model import load_tokenizer
from training.reasoning_text import TAGS
from training.tags import NO_TAG, tag_numbers


@pytest.mark.parametrize("phase", [TEXT_COT, TEXT_FLOW_COT])
@pytest.mark.parametrize("dropped", [(), (Component.TASK, Component.MOVE), tuple(Component)[:-1]])
def test_the_tokens_of_a_tag_are_its_text(base: Path, phase: object, dropped: tuple[Component, ...]) -> None:
    layout, tokenizer = layout_of(base, phase), load_tokenizer(base)
    written = flatten(spans(layout, sample(), dropped))
    numbers = tag_numbers(written.ids, written.roles, layout)
    for number, (component, tag) in enumerate(zip(Component, TAGS, strict=True)):
        text = tokenizer.decode(written.ids[numbers == number]).strip()
        assert text.startswith(f"{tag}:") if component not in dropped else not text
        assert not any(f" {other}:" in text for other in (*TAGS, "ACTION", "FLOW")), text


def test_without_reasoning_no_token_has_a_tag(base: Path) -> None:
    layout = layout_of(base, TEXT_COT)
    written = flatten(spans(layout, sample(), EVERYTHING))
    assert set(tag_numbers(written.ids, written.roles, layout)) == {NO_TAG}
