"""PhaseSpec + Sample -> Spans -> ids, labels, loss weights, roles; and the inference prefix.

The only place where phases differ: a phase is a list of segments, and this module writes them one after the other.
Training and inference build the prompt with the same function, so they cannot drift apart.

The user turn is NORA's: one image, then the instruction in lower case, in Qwen2.5-VL's chat template. The assistant
turn is either the action alone (the same bytes in every phase) or, in embodied-CoT's vocabulary,

    TASK: … PLAN: … VISIBLE OBJECTS: name [x0, y0, x1, y1], … SUBTASK REASONING: … SUBTASK: … MOVE REASONING: …
    MOVE: … GRIPPER POSITION: [x, y, …] FLOW: <flow_i>… ACTION: <robot_action_i>…<|im_end|>
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.checks import ConfigError, check
from configs.choices import Component, DropoutVariant, Role
from configs.phases import PhaseSpec, Segment
from data_pipeline.contract import STATIC_CODE, EpisodeId, Sample
from training.reasoning_text import TAGS, render_reasoning

IGNORE = -100
"""Label that cross-entropy skips."""

ROLES: tuple[Role, ...] = tuple(Role)
"""A token's role is stored as its index here."""

FLOW_TAG = "FLOW: "
ACTION_TAG = "ACTION: "
SYSTEM_PROMPT = "You are a helpful assistant."
PIECES: tuple[Component | Role, ...] = (*Component, Role.FLOW)
"""What reasoning dropout may leave out."""
EVERYTHING = frozenset(PIECES)
IMAGE_TOKEN = "<|image_pad|>"
END_TOKEN = "<|im_end|>"


# ------------------------------------------------------------------ what a layout needs to know


@dataclass(frozen=True)
class Vocabulary:
    """Token ids, looked up by name."""

    action_start: int  # <robot_action_0>; the codes are contiguous
    num_actions: int
    flow_start: int  # <flow_0>; -1 where the phase has no flow
    num_flows: int
    image: int  # <|image_pad|>
    end: int  # <|im_end|>
    pad: int

    @classmethod
    def of(cls, tokenizer: Any, num_actions: int, num_flows: int) -> Vocabulary:
        """Look the names up. Raises ConfigError where a token is missing or a family is not contiguous."""
        ids: dict[str, int] = tokenizer.get_vocab()
        return cls(
            action_start=_family(ids, "<robot_action_{}>", num_actions),
            num_actions=num_actions,
            flow_start=_family(ids, "<flow_{}>", num_flows) if num_flows else -1,
            num_flows=num_flows,
            image=_family(ids, IMAGE_TOKEN, 1),
            end=_family(ids, END_TOKEN, 1),
            pad=int(tokenizer.pad_token_id),
        )


def _family(ids: Mapping[str, int], name: str, count: int) -> int:
    missing = next((name.format(i) for i in range(count) if name.format(i) not in ids), None)
    check(missing is None, f"the base model's tokenizer has no token {missing}; it needs {count} of {name}")
    first = ids[name.format(0)]
    contiguous = all(ids[name.format(i)] == first + i for i in range(count))
    check(contiguous, f"the ids of {name} are not contiguous from {first} in this tokenizer")
    return first


@dataclass(frozen=True)
class Layout:
    """Everything needed to write a sequence of one phase."""

    phase: PhaseSpec
    vocabulary: Vocabulary
    encode_text: Callable[[str], list[int]]  # text, control tokens included -> ids
    encode_actions: Callable[[np.ndarray], list[int]]  # float32 [H, 7] normalised -> codes
    visual_tokens: int  # of one image, after the merge
    system_prompt: bool


@dataclass(frozen=True)
class Span:
    """A stretch of tokens with one role. Everything but the prompt is a target."""

    ids: tuple[int, ...]
    role: Role
    weights: tuple[float, ...] = ()  # of each token within its role's mean; (): 1 everywhere


@dataclass(frozen=True)
class TokenSequence:
    """One sample as arrays of length T."""

    ids: np.ndarray  # int64
    labels: np.ndarray  # int64, IGNORE where the token is not a target
    weights: np.ndarray  # float32, weight of the token within its role's mean; 0 where it is not a target
    roles: np.ndarray  # int64, index into ROLES


# ------------------------------------------------------------------ writing


def inference_prefix(layout: Layout, instruction: str) -> tuple[int, ...]:
    """The prompt's ids, up to and including the opening of the assistant turn; prefix of every training sequence."""
    system = f"<|im_start|>system\n{SYSTEM_PROMPT}{END_TOKEN}\n" if layout.system_prompt else ""
    image = f"<|vision_start|>{IMAGE_TOKEN * layout.visual_tokens}<|vision_end|>"
    user = f"<|im_start|>user\n{image}{instruction.lower()}{END_TOKEN}\n"
    return tuple(layout.encode_text(f"{system}{user}<|im_start|>assistant\n"))


def spans(layout: Layout, sample: Sample, dropped: Collection[Component | Role] = ()) -> tuple[Span, ...]:
    """Prompt, then the phase's segments in order, `dropped` pieces left out with their tags.

    Without EVERYTHING the target is the action alone, whatever the phase. A part that is None (flow near the end of an
    episode, a step that nobody reasoned about) is left out too.
    """
    written = _present(layout.phase, sample, dropped)
    out = [Span(inference_prefix(layout, sample.instruction), Role.PROMPT)]
    for number, segment in enumerate(written):
        lead = " " if number else ""
        out.append(_write(layout, segment, sample.parts[segment.source], lead, dropped))
    if written:
        out.append(Span(action_tag_ids(layout), _closing_role(written)))
    action = layout.phase.segments[-1]
    codes = layout.encode_actions(sample.parts[action.source])
    out.append(Span((*(layout.vocabulary.action_start + c for c in codes), layout.vocabulary.end), Role.ACTION))
    return tuple(out)


def action_tag_ids(layout: Layout) -> tuple[int, ...]:
    """Ids of the tag that stands between a reasoning (or its flow) and the action."""
    return tuple(layout.encode_text(f" {ACTION_TAG}"))


def opening_ids(layout: Layout) -> tuple[int, ...]:
    """First ids of a sequence that reasons: what `think` forces the decoder to begin with. () without reasoning."""
    first = layout.phase.segments[0]
    match first.role:
        case Role.TEXT:
            tag = next(tag for component, tag in zip(Component, TAGS, strict=True) if component not in first.without)
            return tuple(layout.encode_text(f"{tag}:"))
        case Role.FLOW:
            return tuple(layout.encode_text(FLOW_TAG))
        case _:
            return ()


def flatten(written: Sequence[Span]) -> TokenSequence:
    """Spans -> arrays; the prompt is never supervised."""
    ids = np.fromiter((i for s in written for i in s.ids), np.int64)
    roles = np.repeat([ROLES.index(s.role) for s in written], [len(s.ids) for s in written])
    target = roles != ROLES.index(Role.PROMPT)
    weights = np.fromiter((w for s in written for w in s.weights or (1.0,) * len(s.ids)), np.float32)
    return TokenSequence(ids, np.where(target, ids, IGNORE), np.where(target, weights, 0), roles)


def role_weights(phase: PhaseSpec) -> dict[Role, float]:
    """Loss weight per role. Raises ConfigError where two segments of one role disagree."""
    weights: dict[Role, float] = {}
    for segment in phase.segments:
        known = weights.setdefault(segment.role, segment.loss_weight)
        if known != segment.loss_weight:
            raise ConfigError(
                f"phase {phase.name!r}: segments of role {segment.role.value!r} have loss weights {known} and "
                f"{segment.loss_weight}; a role has one weight"
            )
    return weights


def _present(phase: PhaseSpec, sample: Sample, dropped: Collection[Component | Role]) -> tuple[Segment, ...]:
    for segment in phase.segments:
        if segment.source not in sample.parts:
            have = ", ".join(sorted(sample.parts))
            raise ConfigError(
                f"phase {phase.name!r} needs {segment.source!r}, which the data does not offer (have: {have})"
            )
    parts = ((s, sample.parts[s.source]) for s in phase.segments[:-1])
    return tuple(s for s, part in parts if part is not None and not _is_dropped(s, part, dropped))


def _is_dropped(segment: Segment, part: Any, dropped: Collection[Component | Role]) -> bool:
    if segment.role is Role.TEXT:
        return {*Component} <= {*segment.without, *part.absent, *dropped}
    return segment.role in dropped


def _write(layout: Layout, segment: Segment, value: Any, lead: str, dropped: Collection[Component | Role]) -> Span:
    match segment.role:
        case Role.TEXT:
            text = lead + render_reasoning(value, {*segment.without, *dropped})
            return Span(tuple(layout.encode_text(text)), Role.TEXT)
        case Role.FLOW:
            tag = layout.encode_text(f"{lead}{FLOW_TAG}")
            codes = (layout.vocabulary.flow_start + int(c) for c in value)
            weights = (segment.static_weight if c == STATIC_CODE else 1.0 for c in value)
            return Span((*tag, *codes), Role.FLOW, (*(1.0,) * len(tag), *weights))
        case _:
            raise ConfigError(
                f"phase {layout.phase.name!r}: role {segment.role.value!r} cannot stand before the action"
            )


def _closing_role(written: Iterable[Segment]) -> Role:
    """The ACTION tag belongs to the text, or to the last segment where there is no text."""
    roles = [s.role for s in written]
    return Role.TEXT if Role.TEXT in roles else roles[-1]


# ------------------------------------------------------------------ draws


def sample_generator(seed: int, epoch: int, episode: EpisodeId, step: int, purpose: str) -> np.random.Generator:
    """A generator that depends on what is drawn for, never on when or where it is drawn."""
    key = (seed, epoch, zlib.crc32(str(episode).encode()), step, zlib.crc32(purpose.encode()))
    return np.random.default_rng(key)


def draw_dropped(
    variant: DropoutVariant, prob: float, seed: int, epoch: int, episode: EpisodeId, step: int
) -> frozenset[Component | Role]:
    """What this sample's reasoning leaves out in this epoch, each with probability `prob`.

    Of `component` each piece by itself, flow too; otherwise everything or nothing.
    """
    key = (seed, epoch, episode, step)
    if variant is not DropoutVariant.COMPONENT:
        return frozenset() if draw_reason(prob, *key) else EVERYTHING
    drawn = sample_generator(*key, "components").random(len(PIECES)) < prob
    return frozenset(piece for piece, out in zip(PIECES, drawn, strict=True) if out)


def draw_reason(dropout_prob: float, seed: int, epoch: int, episode: EpisodeId, step: int) -> bool:
    """Whether this sample reasons in this epoch; `dropout_prob` is the probability that it does not."""
    return bool(sample_generator(seed, epoch, episode, step, "reason").random() >= dropout_prob)
