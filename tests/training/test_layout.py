"""What a sequence says, for every phase; and that training and inference agree on the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from configs.checks import ConfigError
from configs.choices import Component, DropoutVariant, Role, Subset
from configs.phases import PhaseSpec, ReasoningDropout, Segment
from data_pipeline.contract import BoundingBox, EpisodeId, Sample, StepReasoning
from tests.helpers.tiny_adapter import (
    ACTION,
    BASELINE,
    FLOW,
    FLOW_CODES,
    SMALL,
    TEXT,
    TEXT_COT,
    TEXT_FLOW_COT,
    smooth_chunks,
)
from tests.helpers.training_study import step_reasoning
from training import action_tokenizer
from training.layout import (
    EVERYTHING,
    IGNORE,
    PIECES,
    ROLES,
    Layout,
    action_tag_ids,
    draw_dropped,
    draw_reason,
    flatten,
    inference_prefix,
    opening_ids,
    role_weights,
    spans,
)
from training.lora_model import ACTION_TOKENIZER_FILE, load_tokenizer, make_layout
from training.reasoning_text import TAGS, parse_reasoning, render_reasoning
from training.tiny_backbone import add_numbered_tokens, chat_template

GOLDEN = Path(__file__).parent / "golden"
PHASES = (BASELINE, TEXT_COT, TEXT_FLOW_COT)
FLOW_ONLY = PhaseSpec("flow_only", (FLOW, ACTION))
INSTRUCTION = "pick up the alphabet soup and place it in the basket"
REASONING = step_reasoning(INSTRUCTION, 5)


def layout_of(base: Path, phase: PhaseSpec) -> Layout:
    tokenizer = load_tokenizer(base)
    flows = FLOW_CODES if Role.FLOW in role_weights(phase) else 0
    add_numbered_tokens(tokenizer, "<flow_{}>", flows)
    actions = action_tokenizer.load(base / ACTION_TOKENIZER_FILE)
    return make_layout(phase, tokenizer, actions, flows, SMALL.image_size, SMALL.system_prompt)


def sample() -> Sample:
    parts = {
        "action": smooth_chunks(1, seed=3)[0],
        "reasoning": REASONING,
        "flow": np.arange(16, dtype=np.uint16),
    }
    return Sample(EpisodeId(Subset.OBJECT, 0, 1), 5, np.zeros((56, 56, 3), np.uint8), INSTRUCTION, parts)


def reader(base: Path, layout: Layout) -> Callable[[Sequence[int]], str]:
    """Ids -> text, flow tokens included."""
    tokenizer = load_tokenizer(base)
    add_numbered_tokens(tokenizer, "<flow_{}>", layout.vocabulary.num_flows)
    return lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


# ------------------------------------------------------------------ render and parse

WORDS = st.text("abcdefgh ,.;:()0123456789'", min_size=0, max_size=30).map(str.strip)
NAMES = st.text("abc _", min_size=1, max_size=10).map(str.strip).filter(bool)
GRID = st.integers(0, 255)
BOXES = st.builds(BoundingBox, NAMES, GRID, GRID, GRID, GRID)
REASONINGS = st.builds(
    StepReasoning,
    WORDS,
    WORDS,
    st.lists(BOXES, max_size=3).map(tuple),
    WORDS,
    WORDS,
    WORDS,
    WORDS,
    st.lists(st.tuples(GRID, GRID), max_size=5).map(tuple),
)


@given(REASONINGS)
def test_parsing_inverts_rendering(reasoning: StepReasoning) -> None:
    text = render_reasoning(reasoning)
    assert parse_reasoning(text) == reasoning
    assert parse_reasoning(text + " FLOW: <flow_1> ACTION: <robot_action_2>") == reasoning


def test_the_tags_stand_in_embodied_cots_order() -> None:
    text = render_reasoning(REASONING)
    places = [text.index(f" {tag}:" if number else f"{tag}:") for number, tag in enumerate(TAGS)]
    assert places == sorted(places)
    assert "VISIBLE OBJECTS: alphabet soup [35, 40, 55, 80], basket [120, 90, 180, 160] SUBTASK REASONING:" in text


@pytest.mark.parametrize("text", ["go PLAN: x", "a\nb", " edge", "<|im_end|>", "x ACTION: y"])
def test_a_text_that_could_not_be_read_back_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="chain of thought"):
        render_reasoning(replace(REASONING, subtask=text))


@pytest.mark.parametrize("text", ["", "TASK: x", "garbage", "TASK: a PLAN: b", "ACTION: <robot_action_1>"])
def test_malformed_reasoning_is_none(text: str) -> None:
    assert parse_reasoning(text) is None


def test_a_broken_box_is_none() -> None:
    text = render_reasoning(REASONING)
    assert parse_reasoning(text.replace("[35, 40, 55, 80]", "[35, 40, 55]")) is None


# ------------------------------------------------------------------ the sequence


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dropped", [(), EVERYTHING])
def test_the_prefix_begins_every_training_sequence(
    base: Path, phase: PhaseSpec, dropped: Collection[Component | Role]
) -> None:
    layout = layout_of(base, phase)
    prefix = inference_prefix(layout, INSTRUCTION.upper())
    sequence = flatten(spans(layout, sample(), dropped))
    assert tuple(sequence.ids[: len(prefix)]) == prefix
    assert (sequence.labels[: len(prefix)] == IGNORE).all()
    assert (sequence.labels[len(prefix) :] == sequence.ids[len(prefix) :]).all()


def test_without_reasoning_every_phase_writes_the_same_bytes(base: Path) -> None:
    written = [flatten(spans(layout_of(base, phase), sample(), EVERYTHING)) for phase in (*PHASES, FLOW_ONLY)]
    assert all((w.ids == written[0].ids).all() and (w.roles == written[0].roles).all() for w in written)


def test_the_prompt_is_that_of_the_chat_template(base: Path) -> None:
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    user = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]}]
    for system in (False, True):
        layout = replace(layout_of(base, BASELINE), system_prompt=system)
        text = processor.apply_chat_template(
            user, chat_template=chat_template(system_prompt=system), add_generation_prompt=True, tokenize=False
        )
        text = text.replace("<|image_pad|>", "<|image_pad|>" * layout.visual_tokens)
        assert inference_prefix(layout, INSTRUCTION) == tuple(processor.tokenizer(text)["input_ids"])


def test_segments_follow_the_phase(base: Path) -> None:
    layout = layout_of(base, TEXT_FLOW_COT)
    whole = reader(base, layout)(flatten(spans(layout, sample())).ids.tolist())
    answer = whole.split("<|im_start|>assistant\n")[1]
    flow = "".join(f"<flow_{i}>" for i in range(16))
    assert answer.startswith(f"{render_reasoning(REASONING)} FLOW: {flow} ACTION: <robot_action_")
    assert answer.endswith("><|im_end|>")


def test_absent_flow_leaves_no_trace(base: Path) -> None:
    near_the_end = sample()
    parts = dict(near_the_end.parts) | {"flow": None}
    near_the_end = replace(near_the_end, parts=parts)
    with_text = spans(layout_of(base, TEXT_FLOW_COT), near_the_end)
    assert with_text == spans(layout_of(base, TEXT_COT), near_the_end)
    alone = spans(layout_of(base, FLOW_ONLY), near_the_end)
    assert alone == spans(layout_of(base, BASELINE), near_the_end, EVERYTHING)


def test_a_missing_part_is_named(base: Path) -> None:
    bare = replace(sample(), parts={"action": sample().parts["action"]})
    with pytest.raises(ConfigError, match="needs 'reasoning'"):
        spans(layout_of(base, TEXT_COT), bare)


def test_the_action_tag_belongs_to_the_text_and_the_end_to_the_action(base: Path) -> None:
    layout = layout_of(base, TEXT_FLOW_COT)
    written = spans(layout, sample())
    assert [s.role for s in written] == [Role.PROMPT, Role.TEXT, Role.FLOW, Role.TEXT, Role.ACTION]
    assert written[3].ids == action_tag_ids(layout)
    assert written[4].ids[-1] == layout.vocabulary.end
    assert written[1].ids[: len(opening_ids(layout))] == opening_ids(layout)
    assert opening_ids(layout_of(base, BASELINE)) == ()


def test_one_weight_per_role() -> None:
    assert role_weights(TEXT_FLOW_COT) == {Role.TEXT: 0.5, Role.FLOW: 0.5, Role.ACTION: 1.0}
    twice = PhaseSpec("twice", (TEXT, Segment(Role.TEXT, "reasoning", 0.1), ACTION))
    with pytest.raises(ConfigError, match=r"0\.5 and 0\.1"):
        role_weights(twice)


@pytest.mark.parametrize("phase", PHASES)
def test_golden_sequences(base: Path, phase: PhaseSpec, renew_golden: bool) -> None:
    layout = layout_of(base, phase)
    weights, read = role_weights(phase), reader(base, layout)
    sequence = flatten(spans(layout, sample()))
    rows = zip(sequence.ids, sequence.labels, sequence.weights, (ROLES[r] for r in sequence.roles), strict=True)
    lines = [
        f"{token:5d} {role.value:6s} {weights.get(role, 0) * weight:4.2f} {label:5d} {read([token])!r}"
        for token, label, weight, role in rows
    ]
    path = GOLDEN / f"{phase.name}.txt"
    text = "   id role   weight label text\n" + "\n".join(lines) + "\n"
    if renew_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "renew with --renew-golden and read the diff"


# ------------------------------------------------------------------ draws and leaks


def test_the_draw_depends_on_identity_alone() -> None:
    episode = EpisodeId(Subset.OBJECT, 3, 1)
    draws = [draw_reason(0.5, 42, epoch, episode, step) for epoch in range(20) for step in range(50)]
    assert draws == [draw_reason(0.5, 42, epoch, episode, step) for epoch in range(20) for step in range(50)]
    assert 0.45 < np.mean(draws) < 0.55
    assert not any(draw_reason(1.0, 42, 0, episode, step) for step in range(100))
    assert all(draw_reason(0.0, 42, 0, episode, step) for step in range(100))


def draws(variant: DropoutVariant, prob: float) -> list[frozenset[Component | Role]]:
    episode = EpisodeId(Subset.OBJECT, 3, 1)
    return [draw_dropped(variant, prob, 42, epoch, episode, step) for epoch in range(40) for step in range(100)]


@pytest.mark.parametrize("prob", [0.2, 0.5])
def test_components_are_dropped_one_by_one(prob: float) -> None:
    drawn = draws(DropoutVariant.COMPONENT, prob)
    out = np.array([[piece in dropped for piece in PIECES] for dropped in drawn])
    assert np.abs(out.mean(0) - prob).max() < 0.03
    together = np.corrcoef(out.T) - np.eye(len(PIECES))
    assert np.abs(together).max() < 0.06, "pieces must not be dropped together"
    assert drawn == draws(DropoutVariant.COMPONENT, prob)


@pytest.mark.parametrize("variant", [DropoutVariant.WHOLE, DropoutVariant.STAGE])
def test_whole_is_everything_or_nothing_as_it_always_was(variant: DropoutVariant) -> None:
    episode = EpisodeId(Subset.OBJECT, 3, 1)
    reasons = [draw_reason(0.3, 42, epoch, episode, step) for epoch in range(40) for step in range(100)]
    assert draws(variant, 0.3) == [frozenset() if reason else EVERYTHING for reason in reasons]
    assert 0.67 < np.mean(reasons) < 0.73


def test_what_is_dropped_leaves_no_trace_and_the_rest_its_order(base: Path) -> None:
    layout = layout_of(base, TEXT_FLOW_COT)
    dropped = frozenset({Component.TASK, Component.VISIBLE_OBJECTS, Component.MOVE, Role.FLOW})
    answer = reader(base, layout)(flatten(spans(layout, sample(), dropped)).ids.tolist()).split("assistant\n")[1]
    kept = ("PLAN", "SUBTASK REASONING", "SUBTASK", "MOVE REASONING", "GRIPPER POSITION", "ACTION")
    assert re.findall(r"[A-Z]{2,}(?: [A-Z]{2,})?(?=:)", answer) == list(kept)
    assert answer.startswith(f"PLAN: {REASONING.plan} SUBTASK REASONING:")
    assert spans(layout, sample(), EVERYTHING) == spans(layout_of(base, BASELINE), sample())
    words = spans(layout, sample(), frozenset(Component))
    assert words == spans(layout_of(base, FLOW_ONLY), sample())


@pytest.mark.parametrize("stage", range(8))
def test_a_stage_trims_the_first_components_in_training_and_at_test_time(base: Path, stage: int) -> None:
    phase = ReasoningDropout(variant=DropoutVariant.STAGE, scheduled_stage=stage).trimmed(TEXT_FLOW_COT)
    layout = layout_of(base, phase)
    written = spans(layout, sample())
    text = reader(base, layout)(written[1].ids)
    whole = render_reasoning(REASONING)
    assert text == whole[whole.index(f" {TAGS[stage]}: ") + 1 if stage else 0 :]
    assert written[1].ids[: len(opening_ids(layout))] == opening_ids(layout)
    assert reader(base, layout)(opening_ids(layout)) == f"{TAGS[stage]}:"
    assert (phase == TEXT_FLOW_COT) == (stage == 0)
