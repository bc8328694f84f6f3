"""Decoding on a real model class with random weights: cached steps, padding and batching change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import ConfigError, EnvConfig, EvalConfig, Mode, Subset, TrainerConfig
from configs.slices import EvaluateSlice
from data_pipeline.contract import EnvironmentProblem
from evaluation.generation import Request, Stream
from evaluation.policy import Batching, VlaPolicy, barred_from_text, load_subject
from evaluation.policy_api import Decision, Observation
from tests.helpers.tiny_adapter import BASELINE, TEXT_COT, TEXT_FLOW_COT, TinyAdapter, write_tiny_adapter
from training.dataset import image_grid, patchify
from training.layout import action_tag_ids, inference_prefix, opening_ids
from training.lora_model import LoadedPolicy, load_adapter

SENTENCES = ("pick up the alphabet soup and place it in the basket", "push the plate", "Turn on the stove")
MAX_NEW = 24


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicy:
    made = write_tiny_adapter(tmp_path_factory.mktemp("adapter"), TEXT_FLOW_COT)
    adapter = load_adapter(made.checkpoint, made.base, "cpu", torch.float32)
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
    return replace(a, seconds=0, actions=a.actions.tobytes()) == replace(b, seconds=0, actions=b.actions.tobytes())


def requests(loaded: LoadedPolicy, count: int) -> list[Request]:
    rng = np.random.default_rng(1)
    size = loaded.card.image_size
    return [
        Request(
            inference_prefix(loaded.layout, SENTENCES[i % 3]),
            patchify(torch.from_numpy(rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8))),
            image_grid(1, size),
        )
        for i in range(count)
    ]


def test_cached_decoding_equals_one_pass_over_the_whole_sequence(loaded: LoadedPolicy) -> None:
    rows = requests(loaded, 3)
    assert len({len(r.prompt) for r in rows}) > 1
    tokens = np.random.default_rng(2).integers(10, 200, (3, 12))
    vocabulary = loaded.layout.vocabulary
    with torch.inference_mode():
        stream = Stream(loaded.model, rows, 64, vocabulary)
        stepped = [stream.logits]
        for step in range(12):
            stream.append(tokens[:, step])
            stepped.append(stream.logits)
        for row, request in enumerate(rows):
            # The reference: the model's own forward on one unpadded row, as training calls it.
            ids = torch.tensor([[*request.prompt, *tokens[row]]])
            types = (ids == vocabulary.image).int()
            whole = loaded.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=types,
                pixel_values=request.pixels,
                image_grid_thw=request.grid,
            ).logits[0, len(request.prompt) - 1 :]
            assert len(whole) == len(stepped)
            for step in range(13):
                torch.testing.assert_close(stepped[step][row], whole[step], atol=2e-5, rtol=1e-4)


def test_positions_are_three_dimensional(loaded: LoadedPolicy) -> None:
    request = requests(loaded, 1)[0]
    with torch.inference_mode():
        stream = Stream(loaded.model, [request], len(request.prompt), loaded.layout.vocabulary)
    # An image of n x n visual tokens takes n positions, so the next one comes before the length of the prompt.
    side = int(loaded.layout.visual_tokens**0.5)
    expected = len(request.prompt) - side * side + side
    assert stream._next.flatten().tolist() == [expected] * 3


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
    barred = set(barred_from_text(loaded))
    for decision in policy(loaded).act(observations(4, think=True)):
        assert decision.reasoning[: len(opening)] == opening
        assert decision.reasoning[-len(tag) :] == tag
        assert len(decision.reasoning) <= len(opening) + MAX_NEW + len(tag)
        assert decision.forced
        assert not barred & set(decision.reasoning)
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
