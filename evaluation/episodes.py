"""The records of evaluation: which episodes are planned, how one is run, what came of it. Plain values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.choices import Mode, Subset
from configs.schema import EvalConfig
from data_pipeline.contract import ACTION_DIM

if TYPE_CHECKING:
    from data_pipeline.raw_loader import ReplayStart

SETTLE_STEPS = 10
"""No-op steps after a reset, while objects fall into place; LIBERO's evaluations use 10."""

NORA_CHUNKS = 500
NORA_EXECUTED_STEPS = 5
"""An episode in the reference evaluation of NORA: 500 chunks of 5 steps, whatever the suite."""


class Outcome(StrEnum):
    """`error` is the simulator's, never the policy's."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class Shows(StrEnum):
    """What a policy is shown besides the instruction and the clock."""

    IMAGE = "image"  # a rendered frame
    NOTHING = "nothing"  # nothing is drawn
    EXPERT = "expert"  # the scripted expert's next action; nothing is drawn


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """What an episode's result may depend on, besides the adapter, the protocol and the environment."""

    task_id: int
    init_state: int
    seed: int
    mode: str


@dataclass(frozen=True)
class Protocol:
    """How an episode is run. It is printed with every number, and numbers of different protocols never merge."""

    name: str
    settle_steps: int  # no-op steps before the first observation
    max_steps: int  # environment steps
    execute: int  # steps executed of each chunk
    success_within_chunk: bool  # ends at the step that succeeds; otherwise success is read after the chunk
    freeze_chunks: int  # chunks for which a reasoning is kept
    max_new_tokens: int  # of reasoning, before an action is forced

    def describe(self, mode: str) -> str:
        """One line for people."""
        success = "any step" if self.success_within_chunk else "after the chunk"
        kept = f", reasoning kept for {self.freeze_chunks} chunks" if mode == Mode.THINK.value else ""
        return (
            f"{self.name}: {self.settle_steps} settling steps, at most {self.max_steps} environment steps, "
            f"{self.execute} steps per query, success at {success}{kept}"
        )


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode. Everything but `timing` depends on its key alone."""

    key: EpisodeKey
    task_name: str
    instruction: str  # as the policy was told
    outcome: Outcome
    steps: int  # environment steps after settling
    reason: str = ""  # why it failed or what broke; empty for success
    queries: int = 0  # of the policy
    tokens: int = 0  # generated, all queries together
    free_decodable: int = 0  # queries whose greedy action needed no constraint
    reasoning: str = ""  # text of the first query's chain of thought
    reasoning_forced: int = 0  # reasonings cut at max_new_tokens
    perturbed: Mapping[str, Any] = field(default_factory=dict)  # what a perturbation drew: angles, factors, offsets
    milestones: Mapping[str, Any] = field(default_factory=dict[str, Any])  # see data_pipeline.milestones
    fingerprint: str = ""  # digest, of the environment that ran it; of an error, of the one that should have
    timing: Mapping[str, Any] = field(default_factory=dict)  # seconds: wall, policy, simulator; per query: latency


@dataclass(frozen=True, eq=False)
class Trace:
    """What was done and thought in an episode: with the row, enough to show it again."""

    actions: np.ndarray  # float32 [steps, 7], exactly those given to the environment after settling
    thoughts: tuple[tuple[int, str], ...] = ()  # (environment step of the query, the reasoning written there)


NOTHING_DONE = Trace(np.zeros((0, ACTION_DIM), np.float32))
"""Of an episode that the simulator broke."""


def make_protocol(config: EvalConfig, execute: int, max_steps: int) -> Protocol:
    """The two protocols, `standard` and NORA's own. max_steps: the suite's limit, used by `standard`."""
    if config.protocol == "nora":
        max_steps, execute = NORA_CHUNKS * NORA_EXECUTED_STEPS, NORA_EXECUTED_STEPS
    return Protocol(
        config.protocol,
        settle_steps=SETTLE_STEPS,
        max_steps=max_steps,
        execute=execute,
        success_within_chunk=config.protocol == "standard",
        freeze_chunks=config.freeze_chunks,
        max_new_tokens=config.max_new_tokens,
    )


def plan(config: EvalConfig, tasks: Sequence[int], modes: Sequence[Mode]) -> list[EpisodeKey]:
    """Every episode to run, trial by trial, so that the first few show different tasks."""
    trials = {Mode.NO_THINK: config.num_trials, Mode.THINK: config.num_trials}
    if config.think_trials >= 0:
        trials[Mode.THINK] = config.think_trials
    return [
        EpisodeKey(task, trial, config.seed, mode.value)
        for mode in modes
        for trial in range(trials[mode])
        for task in tasks
    ]


def to_row(result: EpisodeResult) -> dict[str, Any]:
    """JSON view without timings: the published record."""
    row = {**asdict(result.key), **asdict(result), "outcome": result.outcome.value}
    del row["key"], row["timing"]
    return row


def from_row(row: Mapping[str, Any], timing: Mapping[str, Any] | None = None) -> EpisodeResult:
    """Inverse of `to_row`; keys that are not fields of a result (subset, run) are left aside."""
    names = EpisodeResult.__dataclass_fields__.keys() - {"key", "outcome", "timing"}
    fields = {name: row[name] for name in names}
    return EpisodeResult(key=key_of(row), outcome=Outcome(row["outcome"]), timing=timing or {}, **fields)


def key_of(row: Mapping[str, Any]) -> EpisodeKey:
    """The key that a row or a line of timings names."""
    return EpisodeKey(row["task_id"], row["init_state"], row["seed"], row["mode"])


def episode_name(key: EpisodeKey) -> str:
    """Of its film and of its actions: no_think_task03_init07_seed0."""
    return f"{key.mode}_task{key.task_id:02d}_init{key.init_state:02d}_seed{key.seed}"


@dataclass(frozen=True)
class EpisodeRequest:
    """What a simulator worker needs to run one episode."""

    subset: Subset
    key: EpisodeKey
    protocol: Protocol
    start: ReplayStart | None = None  # where a recording began, instead of the key's initial state
    perturbation: str = ""  # what is changed after the reset: camera:2
    shows: Shows = Shows.IMAGE
