"""Adapter -> Policy: prompt, constrained decoding, un-normalised actions.

The prompt, the image and the statistics are training's own functions, so that the two cannot drift apart.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from configs.building import canonical
from configs.checks import check
from configs.choices import Mode
from configs.model import TrainerConfig
from configs.slices import EvaluateSlice
from data_pipeline.image_frame import policy_image
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.whole_files import file_sha256
from evaluation.episodes import make_protocol
from evaluation.generation import Generator, Request, Written
from evaluation.interface import Interface, Picture
from evaluation.libero_eval import Subject
from evaluation.policy_api import Decision, Observation
from training.layout import ACTION_TAG, Layout, Vocabulary, action_tag_ids, inference_prefix, opening_ids
from training.loaded_policy import LoadedPolicy, load_checkpoint
from training.warm_base import WARM_BASE

CHECKPOINT = "checkpoint-final"
BASE = "base"
LENGTH_STEP = 64
"""In deterministic mode prompts are padded to a multiple of this, so that a row's length depends on the row alone."""


@dataclass(frozen=True)
class Batching:
    """How queries become forward passes."""

    rows: int  # at most
    fixed: bool  # always `rows` rows and lengths in steps: no result depends on who shares the batch
    max_new_tokens: int  # of reasoning


@dataclass(frozen=True)
class _Query:
    """An observation as tokens."""

    request: Request
    opening: tuple[int, ...]  # ids of the reasoning that stand in the prompt already
    kept: tuple[int, ...]
    think: bool


class VlaPolicy:
    """A vision-language-action model as a `Policy`."""

    def __init__(self, loaded: LoadedPolicy, batching: Batching, picture: Picture = policy_image) -> None:
        self._layout: Layout = loaded.layout
        self._interface = Interface(loaded.action_tokenizer, loaded.statistics, loaded.card.image_size, picture)
        self._tokenizer = loaded.tokenizer
        self._batching = batching
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._generator = Generator(
            loaded.model,
            loaded.layout.vocabulary,
            self._interface.constraint,
            action_tag_ids(loaded.layout),
            barred_from_text(
                loaded.layout.vocabulary, loaded.tokenizer, loaded.model.get_input_embeddings().num_embeddings
            ),
            loaded.card.image_size,
            fixed_shapes=loaded.model.device.type != "cpu",
        )

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """See Policy. Raises ConfigError if asked to think in a phase without reasoning."""
        began = time.perf_counter()
        queries = [self._query(o) for o in observations]
        decisions: dict[int, Decision] = {}
        for (length, think), members in self._groups(queries).items():
            for start in range(0, len(members), self._batching.rows):
                part = members[start : start + self._batching.rows]
                decisions.update(zip(part, self._decide([queries[i] for i in part], length, think=think), strict=True))
        waited = time.perf_counter() - began
        return [replace(decisions[i], latency_s=waited) for i in range(len(observations))]

    def _query(self, observation: Observation) -> _Query:
        prompt = self._prompt(observation.instruction)
        think = observation.think and not observation.kept
        opening = opening_ids(self._layout) if think else ()
        check(
            bool(opening) or not think, f"phase {self._layout.phase.name!r} has no reasoning; evaluate it in no_think"
        )
        request = Request((*prompt, *opening, *observation.kept), self._interface.see(observation.image))
        return _Query(request, opening, observation.kept, think)

    def _prompt(self, instruction: str) -> tuple[int, ...]:
        if instruction not in self._prompts:
            self._prompts[instruction] = inference_prefix(self._layout, instruction)
        return self._prompts[instruction]

    def _groups(self, queries: Sequence[_Query]) -> dict[tuple[int, bool], list[int]]:
        """Which queries may share a forward pass: (padded length, think) -> their positions."""
        longest = max(len(q.request.prompt) for q in queries)
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for position, query in enumerate(queries):
            stepped = -(-len(query.request.prompt) // LENGTH_STEP) * LENGTH_STEP
            groups[(stepped if self._batching.fixed else longest, query.think)].append(position)
        return groups

    def _decide(self, queries: Sequence[_Query], length: int, *, think: bool) -> list[Decision]:
        began = time.perf_counter()
        requests = [q.request for q in queries]
        if self._batching.fixed:
            requests += [requests[0]] * (self._batching.rows - len(requests))
        limit = self._batching.max_new_tokens
        written = self._generator.generate(requests, length, think=think, max_new_tokens=limit)[: len(queries)]
        decisions = [self._decision(query, row) for query, row in zip(queries, written, strict=True)]
        seconds = (time.perf_counter() - began) / len(queries)
        return [replace(d, seconds=seconds) for d in decisions]

    def _decision(self, query: _Query, written: Written) -> Decision:
        reasoning = (*query.opening, *written.text) if query.think else query.kept
        return Decision(
            actions=self._interface.actions(written.codes),
            reasoning=reasoning,
            text=self._readable(reasoning) if query.think else "",
            tokens=written.tokens,
            free_decodable=written.free_decodable,
            forced=written.forced,
        )

    def _readable(self, reasoning: tuple[int, ...]) -> str:
        text = str(self._tokenizer.decode(list(reasoning), skip_special_tokens=False))
        return text.removesuffix(ACTION_TAG).strip()


def barred_from_text(vocabulary: Vocabulary, tokenizer: Any, rows: Any) -> list[int]:
    """Ids that a reasoning cannot hold: control tokens, action codes, rows without a name; flow codes may stand.

    rows: of the embedding.
    """
    flow = range(vocabulary.flow_start, vocabulary.flow_start + vocabulary.num_flows)
    return sorted({*tokenizer.added_tokens_decoder, *range(len(tokenizer), rows)} - set(flow))


def load_subject(config: EvaluateSlice, adapter: Path, base: Path | None) -> Subject:
    """The policy that the stage evaluates.

    adapter: output of a train stage, or a checkpoint folder itself; base: output of the base stage, None for another
    model. Raises ConfigError where the adapter does not fit the settings.
    """
    checkpoint = adapter / CHECKPOINT if (adapter / CHECKPOINT).is_dir() else adapter
    device, dtype = placement(config.trainer)
    folder = base / BASE if base is not None else config.base or None
    loaded = load_checkpoint(checkpoint, folder, device, dtype, WARM_BASE)
    return as_subject(config, loaded, checkpoint_digest(checkpoint))


def as_subject(config: EvaluateSlice, loaded: LoadedPolicy, digest: str, picture: Picture = policy_image) -> Subject:
    """A loaded model as what the stage evaluates. Raises ConfigError where it does not fit the settings."""
    _check_fit(config, loaded)
    batching = Batching(config.eval.batch_rows, config.eval.deterministic, config.eval.max_new_tokens)
    computed = f"{loaded.model.device.type} {loaded.model.dtype}".replace("torch.", "")
    card = canonical(loaded.card, key_only=False) | {"computed": computed}
    return Subject(VlaPolicy(loaded, batching, picture), digest, card)


def placement(config: TrainerConfig) -> tuple[str, torch.dtype]:
    """Device and number format of inference; sets torch's threads where the settings name them."""
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    device = _device(config.device)
    return device, torch.float32 if device == "cpu" else torch.bfloat16


def _check_fit(config: EvaluateSlice, loaded: LoadedPolicy) -> None:
    execute = make_protocol(config.eval, config.execute, MAX_STEPS[config.subset]).execute
    card, phase = loaded.card, loaded.layout.phase
    check(
        execute <= card.horizon,
        f"eval.protocol={config.eval.protocol} executes {execute} steps of each chunk, but this adapter predicts "
        f"{card.horizon}; allowed: at most {card.horizon}",
    )
    can_think = Mode.THINK not in config.modes or bool(opening_ids(loaded.layout))
    check(can_think, f"phase {phase.name!r} has no reasoning; allowed for eval.modes: no_think")


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_digest(folder: Path) -> str:
    """sha256 of every file's name and bytes."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
