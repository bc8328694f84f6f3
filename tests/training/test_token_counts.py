"""Tokens per tag: they add up to the sequence's own, and the share that decoding would cut is counted as it cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Component, Subset
from configs.phases import PhaseSpec
from data_pipeline.contract import Annotation, EpisodeId, StepReasoning
from tests.helpers.tiny_adapter import TEXT_COT, TEXT_FLOW_COT
from tests.helpers.training_study import step_reasoning
from tests.training.test_layout import layout_of, sample
from training.layout import Role, opening_ids, spans
from training.reasoning_text import render_reasoning
from training.token_counts import count_tokens

STEPS = tuple(step_reasoning("pick up the alphabet soup and place it in the basket", t) for t in range(20))
ABSENT = frozenset({Component.TASK, Component.VISIBLE_OBJECTS})


def annotation(steps: Sequence[StepReasoning | None]) -> Annotation:
    return Annotation(EpisodeId(Subset.OBJECT, 0, 0), tuple(steps), {})


@pytest.mark.parametrize("steps", [STEPS, tuple(replace(s, absent=ABSENT) for s in STEPS), (None, *STEPS, None)])
def test_pieces_add_up_to_the_text(base: Path, steps: Sequence[StepReasoning | None]) -> None:
    encode = layout_of(base, TEXT_COT).encode_text
    found = count_tokens([annotation(steps)], encode)
    whole = [len(encode(render_reasoning(step))) for step in steps if step is not None]
    assert found.text.tokens.tolist() == whole
    shown = [len(tag.tokens) for tag in found.tags]
    assert shown == [0 if steps[1] and c in steps[1].absent else 20 for c in Component]
    assert sum(int(tag.tokens.sum()) for tag in found.tags) == sum(whole)


@pytest.mark.parametrize(("phase", "codes"), [(TEXT_COT, 0), (TEXT_FLOW_COT, 16)])
def test_what_is_written_to_act_is_what_a_policy_generates(base: Path, phase: PhaseSpec, codes: int) -> None:
    layout = layout_of(base, phase)
    one = sample()
    reasoned = spans(layout, one)[1:-1]  # without prompt and action
    assert reasoned[-1].role is Role.TEXT
    generated = sum(len(span.ids) for span in reasoned) - len(opening_ids(layout))
    found = count_tokens([annotation([one.parts["reasoning"]])], layout.encode_text, codes)
    assert found.written.tokens.tolist() == [generated]
    assert found.cut(generated) == 0.0
    assert found.cut(generated - 1) == 1.0


def test_the_table(base: Path) -> None:
    found = count_tokens([annotation(STEPS)], layout_of(base, TEXT_COT).encode_text)
    limit = int(np.median(found.written.tokens)) - 1
    lines = found.lines(limit)
    assert lines[0].split() == ["tokens", "of", "mean", "p95", "max"]
    assert [line.split("  ")[1].strip() for line in lines[1:9]] == [c.name.replace("_", " ") for c in Component]
    assert lines[-1].startswith(f"  cut at eval.max_new_tokens={limit}: ")
    assert lines[-1].endswith(f"{100 * found.cut(limit):.1f} % of 20 samples")
    assert found.cut(limit) > 0
    assert found.cut(512) == 0
    assert count_tokens([], list).lines(5)[-1].endswith("0.0 % of 0 samples")
