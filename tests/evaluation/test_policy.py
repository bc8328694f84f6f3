"""Decoding on a real model class with random weights: cached steps, padding and batching change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.building import canonical
from configs.checks import ConfigError
from configs.choices import Mode, Subset
from configs.data import EnvConfig
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from data_pipeline.contract import EnvironmentProblem
from evaluation.generation import Generator, Request, Stream, Written, pad_left
from evaluation.interface import Interface
from evaluation.policy import Batching, VlaPolicy, barred_from_text, load_subject
from evaluation.policy_api import Decision, Observation
from tests.helpers.forward_inputs import patchify
from tests.helpers.tiny_adapter import BASELINE, TEXT_COT, TEXT_FLOW_COT, TinyAdapter, write_tiny_adapter
from training.base_folder import folder_digest
from training.batch import image_grid, rope_positions
from training.layout import action_tag_ids, inference_prefix, opening_ids
from training.loaded_policy import LoadedPolicy, load_checkpoint
from training.vision_tower import VisionTower

SENTENCES = ("pick up the alphabet soup and place it in the basket", "push the plate", "Turn on the stove")
MAX_NEW = 24


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicy:
    made = write_tiny_adapter(tmp_path_factory.mktemp("adapter"), TEXT_FLOW_COT)
    adapter = load_checkpoint(made.checkpoint, made.base, "cpu", torch.float32)
    # Fresh weights are so small that the tied head repeats the last token; louder ones make every row its own.
    with torch.no_grad():
        for weight in adapter.model.model.language_model.layers.parameters():
            weight.mul_(8.0 if weight.ndim > 1 else 1.0)
    return adapter


def observations(count: int, *, think: bool = False, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return [Observation(image, SENTENCES[i % 3], think, 0) for i, image in enumerate(images)]


def policy(loaded: LoadedPolicy, rows: int = 4, *, fixed: bool = True) -> VlaPolicy:
    return VlaPolicy(loaded, Batching(rows, fixed, MAX_NEW))


def same(a: Decision, b: Decision) -> bool:
    a, b = (replace(d, seconds=0, latency_s=0, actions=d.actions.tobytes()) for d in (a, b))
    return a == b


def requests(loaded: LoadedPolicy, count: int) -> list[Request]:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, loaded.card.image_size, loaded.card.image_size, 3), dtype=np.uint8)
    return [Request(inference_prefix(loaded.layout, SENTENCES[i % 3]), image) for i, image in enumerate(images)]


def barred(loaded: LoadedPolicy) -> list[int]:
    rows = loaded.model.get_input_embeddings().num_embeddings
    return barred_from_text(loaded.layout.vocabulary, loaded.tokenizer, rows)


def generator(loaded: LoadedPolicy, *, fixed_shapes: bool) -> Generator:
    interface = Interface(loaded.action_tokenizer, loaded.statistics, loaded.card.image_size)
    layout = loaded.layout
    parts = layout.vocabulary, interface.constraint, action_tag_ids(layout), barred(loaded)
    return Generator(loaded.model, *parts, loaded.card.image_size, fixed_shapes=fixed_shapes)


def forward_inputs(loaded: LoadedPolicy, request: Request, tokens: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[*request.prompt, *tokens]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == loaded.layout.vocabulary.image).int(),
        "pixel_values": patchify(torch.from_numpy(request.image[None])),
        "image_grid_thw": image_grid(1, len(request.image)),
    }


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_cached_decoding_equals_one_pass_over_the_whole_sequence(loaded: LoadedPolicy, fixed_shapes: bool) -> None:
    rows = requests(loaded, 3)
    assert len({len(r.prompt) for r in rows}) > 1
    tokens = np.random.default_rng(2).integers(10, 200, (3, 12))
    with torch.inference_mode():
        stream = Stream(loaded.model, loaded.layout.vocabulary, loaded.card.image_size, fixed_shapes=fixed_shapes)
        for _ in range(2):  # a second batch on the same cache is not touched by the first
            stepped = [stream.start(rows, 64, 12), *(stream.append(column) for column in tokens.T)]
        for row, request in enumerate(rows):
            # The reference: the model's own forward on one unpadded row, as training calls it.
            inputs = forward_inputs(loaded, request, tuple(tokens[row].tolist()))
            whole = loaded.model(**inputs).logits[0, len(request.prompt) - 1 :]
            assert len(whole) == len(stepped)
            for step in range(13):
                torch.testing.assert_close(stepped[step][row], whole[step], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [56, 112, 168, 224])  # one window, one, four unequal ones, four
def test_the_vision_tower_equals_the_librarys(loaded: LoadedPolicy, size: int) -> None:
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    visual = loaded.model.model.visual
    with torch.inference_mode():
        ours = VisionTower(visual, size)(images)
        theirs = visual(patchify(images), grid_thw=image_grid(2, size)).pooler_output
    torch.testing.assert_close(ours.flatten(0, 1), theirs, atol=1e-6, rtol=1e-5)


def test_positions_are_three_dimensional_and_the_librarys(loaded: LoadedPolicy) -> None:
    image, side = loaded.layout.vocabulary.image, int(loaded.layout.visual_tokens**0.5)
    prompts = [r.prompt for r in requests(loaded, 3)]
    ids, mask = pad_left(prompts, 64, loaded.layout.vocabulary.pad)
    ours, given = rope_positions(ids, mask, image), torch.from_numpy(ids)
    theirs, _ = loaded.model.model.get_rope_index(
        given,
        (given == image).int(),
        image_grid_thw=image_grid(3, loaded.card.image_size),
        attention_mask=torch.from_numpy(mask).long(),
    )
    np.testing.assert_array_equal(ours[:, mask], theirs.numpy()[:, mask])
    # An image of n x n visual tokens takes n positions, so the last one comes before the length of the prompt.
    assert ours[:, 0].max() == len(prompts[0]) - side * side + side - 1


class AsTheAutomatonSays:
    """The constraint as a LogitsProcessor of the library: what was written since the prompt, read from its start."""

    def __init__(self, loaded: LoadedPolicy, prompt: int) -> None:
        self.vocabulary, self.prompt = loaded.layout.vocabulary, prompt
        self.constraint = Interface(loaded.action_tokenizer, loaded.statistics, loaded.card.image_size).constraint

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        state, left = self.constraint.start(1)
        for code in input_ids[0, self.prompt :] - self.vocabulary.action_start:
            state, left = self.constraint.advance(state, left, code[None].numpy())
        out, first = torch.full_like(scores, -torch.inf), self.vocabulary.action_start
        allowed = np.flatnonzero(self.constraint.allowed[state[0], left[0]]) + first
        kept = allowed if len(allowed) else np.array([self.vocabulary.end])
        out[:, kept] = scores[:, kept]
        return out


def by_the_library(loaded: LoadedPolicy, request: Request) -> tuple[int, ...]:
    inputs, vocabulary = forward_inputs(loaded, request), loaded.layout.vocabulary
    processor = AsTheAutomatonSays(loaded, len(request.prompt))
    ends = {"eos_token_id": vocabulary.end, "pad_token_id": vocabulary.pad, "max_new_tokens": 99, "do_sample": False}
    written = loaded.model.generate(**inputs, logits_processor=[processor], **ends)[0, len(request.prompt) :].tolist()
    assert written.pop() == vocabulary.end
    return tuple(token - vocabulary.action_start for token in written)


def test_greedy_codes_are_those_of_the_librarys_generate_under_the_same_constraint(loaded: LoadedPolicy) -> None:
    asked = requests(loaded, 6)
    ours = generator(loaded, fixed_shapes=False).generate(asked, 64, think=False, max_new_tokens=0)
    assert len({w.codes for w in ours}) > 3
    assert [w.codes for w in ours] == [by_the_library(loaded, r) for r in asked]


@pytest.mark.parametrize("think", [False, True])
def test_a_static_cache_writes_what_a_growing_one_does(loaded: LoadedPolicy, think: bool) -> None:
    asked = requests(loaded, 8)
    written: list[list[Written]] = [
        generator(loaded, fixed_shapes=fixed).generate(asked, 64, think=think, max_new_tokens=MAX_NEW)
        for fixed in (False, True)
    ]
    assert written[0] == written[1]


def test_free_decodable_means_that_decoding_without_the_constraint_writes_the_same_and_ends(
    loaded: LoadedPolicy,
) -> None:
    """A model of fixed logits per step: its first choices spell a chunk or do not, and end or go on."""
    vocabulary, codes = loaded.layout.vocabulary, loaded.action_tokenizer.encode(np.zeros((8, 7)))
    chunk = [vocabulary.action_start + code for code in codes]
    cases = {
        (*chunk, vocabulary.end): True,
        (*chunk, chunk[0]): False,  # goes on
        (*chunk[:-1], vocabulary.end, vocabulary.end): False,  # ends too early
        (5, *chunk[1:], vocabulary.end): True,  # that an action comes first is the mode's choice
    }
    for wanted, expected in cases.items():
        made = generator(loaded, fixed_shapes=False)
        made._stream = Scripted(wanted, chunk, made._table.shape[1])
        written = made.generate(requests(loaded, 1), 64, think=False, max_new_tokens=0)[0]
        assert written.codes == tuple(codes)
        assert written.free_decodable is expected, wanted


class Scripted:
    """A stream whose best token at each step is given, and its next best that of a valid chunk."""

    def __init__(self, wanted: tuple[int, ...], chunk: list[int], size: int) -> None:
        self.wanted, self.chunk, self.size = list(wanted), [*chunk, 0], size

    def start(self, *_: object) -> torch.Tensor:
        return self.append()

    def append(self, *_: object) -> torch.Tensor:
        logits = torch.zeros(1, self.size)
        logits[0, self.chunk.pop(0)] = 1
        logits[0, self.wanted.pop(0)] = 2
        return logits


@pytest.mark.parametrize("think", [False, True])
def test_a_decision_depends_on_its_own_observation_only(loaded: LoadedPolicy, think: bool) -> None:
    asked = observations(6, think=think)
    together = policy(loaded).act(asked)
    assert len({d.actions.tobytes() for d in together}) > 3
    alone = [policy(loaded).act([o])[0] for o in asked]
    shuffled = policy(loaded).act(asked[::-1])[::-1]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert all(same(a, b) for a, b in zip(together, shuffled, strict=True))


def test_left_padding_gives_the_same_tokens_as_single_rows(loaded: LoadedPolicy) -> None:
    asked = observations(64)
    padded = policy(loaded, 64, fixed=False).act(asked)
    assert len({d.actions.tobytes() for d in padded}) > 32
    single = policy(loaded, 1, fixed=False).act(asked)
    assert sum(same(a, b) for a, b in zip(padded, single, strict=True)) == 64


@pytest.mark.parametrize("think", [False, True])
def test_random_weights_always_give_a_chunk(loaded: LoadedPolicy, think: bool) -> None:
    decisions = policy(loaded, 16).act(observations(16, think=think, seed=3))
    assert len({d.actions.tobytes() for d in decisions}) > 8
    for decision in decisions:
        assert decision.actions.shape == (8, 7)
        assert decision.actions.dtype == np.float32
        assert np.isfinite(decision.actions).all()
        assert set(decision.actions[:, 6].tolist()) <= {-1.0, 1.0}
    assert not all(d.free_decodable for d in decisions)  # a constraint can hide a broken model: it is counted


def test_thinking_opens_with_a_tag_ends_with_the_action_and_is_bounded(loaded: LoadedPolicy) -> None:
    layout = loaded.layout
    tag, opening = action_tag_ids(layout), opening_ids(layout)
    never = set(barred(loaded))
    for decision in policy(loaded).act(observations(4, think=True)):
        assert decision.reasoning[: len(opening)] == opening
        assert decision.reasoning[-len(tag) :] == tag
        assert len(decision.reasoning) <= len(opening) + MAX_NEW + len(tag)
        assert decision.forced
        assert not never & set(decision.reasoning)
        assert decision.text.startswith("TASK:")
        assert not decision.text.endswith("ACTION:")


def test_a_kept_reasoning_is_acted_on_as_if_it_had_just_been_written(loaded: LoadedPolicy) -> None:
    first = policy(loaded).act(observations(2, think=True))
    kept = [replace(o, kept=d.reasoning) for o, d in zip(observations(2, think=True), first, strict=True)]
    again = policy(loaded).act(kept)
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before.actions, after.actions)
        assert after.reasoning == before.reasoning
        assert after.text == ""
        assert 0 < after.tokens < before.tokens


def slice_for(**changes: object) -> EvaluateSlice:
    values = {
        "subset": Subset.OBJECT,
        "tasks": (0,),
        "modes": (Mode.NO_THINK,),
        "eval": EvalConfig(num_trials=1),
        "env": EnvConfig(),
        "trainer": TrainerConfig(torch_threads=1, device="cpu"),
        "execute": 4,
        **changes,
    }
    return EvaluateSlice(**values)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TinyAdapter:
    return write_tiny_adapter(tmp_path_factory.mktemp("plain"), BASELINE)


def test_settings_that_do_not_fit_the_adapter_are_refused(plain: TinyAdapter) -> None:
    root = plain.base.parent
    with pytest.raises(ConfigError, match="no reasoning"):
        load_subject(slice_for(modes=(Mode.NO_THINK, Mode.THINK)), root, root)
    with pytest.raises(ConfigError, match="at most 8"):
        load_subject(slice_for(execute=9), root, root)
    subject = load_subject(slice_for(), root, root)
    assert subject.card["phase"]["name"] == BASELINE.name
    assert len(subject.policy.act(observations(1))) == 1


def test_a_folder_that_is_no_adapter_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no adapter_card"):
        load_subject(slice_for(), tmp_path, None)


def test_the_adapter_digest_depends_on_the_weights(tmp_path: Path, plain: TinyAdapter) -> None:
    other = write_tiny_adapter(tmp_path, TEXT_COT, seed=1)
    here = load_subject(slice_for(), plain.base.parent, plain.base.parent).adapter
    there = load_subject(slice_for(), other.base.parent, other.base.parent).adapter
    assert here != there


def test_a_base_in_a_local_folder_is_found_by_its_path_which_is_in_no_key(plain: TinyAdapter) -> None:
    made = plain
    config = slice_for()
    with pytest.raises(EnvironmentProblem, match="give the base's folder"):
        load_subject(config, made.checkpoint, None)
    found = replace(config, base=str(made.base))
    assert canonical(found) == canonical(config)
    assert load_subject(found, made.checkpoint, None).card["base_digest"] == folder_digest(made.base)
