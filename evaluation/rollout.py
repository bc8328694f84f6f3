"""The rollout engine: simulator processes on one side, one batched policy on the other, a ledger beneath.

Episodes are independent and never in lock-step: the policy serves whatever requests are ready. Nothing that is
recorded depends on how many workers there are or on who was first, timings apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from configs.schema import Mode, Subset
from evaluation.episodes import EpisodeKey, EpisodeRequest, EpisodeResult, Outcome, Protocol
from evaluation.ledger import Ledger
from evaluation.policy_api import Decision, Observation, Policy
from evaluation.sim_worker import Begin, Chunk, View
from evaluation.simulators import Broken, SimulatorPool, preferred

if TYPE_CHECKING:
    from data_pipeline.raw_loader import ReplayStart

MAX_ATTEMPTS = 3
"""A simulator that breaks three times on an episode makes it an error row."""

GATHER_S = 0.05
"""How long a ready request waits at least for others, so that they share a forward pass; about the time of a chunk.

At most it waits as long as the last call of the policy took: answering alone would cost the others that much."""

NOT_FINITE = "the policy gave a non-finite action"
TIME_LIMIT = "step limit"

Film = list[tuple[np.ndarray, str]]
"""What the policy saw (uint8 [R, R, 3], ImageFrame.GL) and what it thought, query by query."""


@dataclass
class Episode:
    """An episode in progress."""

    key: EpisodeKey
    began: float
    view: View | None = None  # set while the policy owes an answer
    waiting_since: float = 0.0
    kept: tuple[int, ...] = ()
    kept_for: int = 0  # chunks for which the current reasoning may still be used
    text: str = ""  # the current reasoning
    first_text: str = ""
    queries: int = 0
    tokens: int = 0
    free_decodable: int = 0
    forced: int = 0
    policy_s: float = 0.0
    simulator_s: float = 0.0
    film: Film | None = None

    def observe(self, protocol_think: bool) -> Observation:  # noqa: FBT001 - a mode
        """The query that the current view asks."""
        assert self.view is not None
        assert self.view.image is not None
        kept = self.kept if self.kept_for > 0 else ()
        instruction = self.view.description.instruction
        return Observation(self.view.image, instruction, protocol_think, self.view.steps, kept, self.key)

    def learn(self, decision: Decision, freeze_chunks: int) -> None:
        """Book-keeping after the policy answered."""
        assert self.view is not None
        if self.kept_for > 0 and self.kept:
            self.kept_for -= 1
        else:
            self.kept, self.kept_for, self.text = decision.reasoning, freeze_chunks - 1, decision.text
        if self.queries == 0:
            self.first_text = decision.text
        self.queries += 1
        self.tokens += decision.tokens
        self.free_decodable += decision.free_decodable
        self.forced += decision.forced
        self.policy_s += decision.seconds
        if self.film is not None and self.view.image is not None:
            self.film.append((self.view.image, self.text))

    def result(self, view: View, outcome: Outcome, reason: str) -> EpisodeResult:
        """The finished record."""
        return EpisodeResult(
            key=self.key,
            task_name=view.description.task_name,
            instruction=view.description.instruction,
            outcome=outcome,
            steps=view.steps,
            reason=reason,
            queries=self.queries,
            tokens=self.tokens,
            free_decodable=self.free_decodable,
            reasoning=self.first_text,
            reasoning_forced=self.forced,
            timing={
                "wall_s": round(time.perf_counter() - self.began, 4),
                "policy_s": round(self.policy_s, 4),
                "simulator_s": round(self.simulator_s, 4),
            },
        )


@dataclass
class Engine:
    """Runs episodes to the end of the plan. `checkpoint` is called often and may raise to stop."""

    subset: Subset
    protocol: Protocol
    pool: SimulatorPool
    policy: Policy
    ledger: Ledger
    batch_rows: int
    starts: Mapping[EpisodeKey, ReplayStart] = field(default_factory=dict[EpisodeKey, "ReplayStart"])
    to_film: frozenset[EpisodeKey] = frozenset()
    save_film: Callable[[EpisodeResult, Film], None] = lambda result, film: None
    finished: Callable[[EpisodeResult], None] = lambda result: None
    checkpoint: Callable[[], None] = lambda: None
    _queue: list[EpisodeKey] = field(default_factory=list)
    _running: dict[int, Episode] = field(default_factory=dict)
    _call_s: float = 0.0  # duration of the policy's last call

    def run(self, keys: Sequence[EpisodeKey]) -> None:
        """Run these episodes; each ends as a row of the ledger."""
        self._queue = list(keys)
        while self._queue or self._running:
            self.checkpoint()
            self._assign()
            for index, answer in self.pool.poll(self._patience()):
                if isinstance(answer, Broken):
                    self._broke(index, answer.reason)
                elif isinstance(answer, View):
                    self._shown(index, answer)
            self._serve()

    def _assign(self) -> None:
        for index in self.pool.idle():
            if index in self._running or not self._queue:
                continue
            wanted = [(self.subset, key.task_id) for key in self._queue]
            key = self._queue.pop(preferred(self.pool, index, wanted))
            film: Film | None = [] if key in self.to_film else None
            self._running[index] = Episode(key, time.perf_counter(), film=film)
            self.pool.begin(index, Begin(EpisodeRequest(self.subset, key, self.protocol, self.starts.get(key))))

    def _patience(self) -> float:
        """How long to wait for answers: until the oldest waiting request should be served."""
        waiting = [e.waiting_since for e in self._running.values() if e.view is not None]
        return max(0.0, min(waiting) + max(GATHER_S, self._call_s) - time.perf_counter()) if waiting else 1.0

    def _shown(self, index: int, view: View) -> None:
        episode = self._running[index]
        episode.simulator_s += view.seconds
        if view.success:
            self._finish(index, episode.result(view, Outcome.SUCCESS, ""))
        elif view.image is None:
            self._finish(index, episode.result(view, Outcome.FAILURE, TIME_LIMIT))
        else:
            episode.view, episode.waiting_since = view, time.perf_counter()

    def _serve(self) -> None:
        """One call of the policy, if a batch is full, nobody else is coming, or someone has waited long enough."""
        waiting = [index for index, episode in self._running.items() if episode.view is not None]
        everyone = len(waiting) == len(self._running) and (not self._queue or not self.pool.idle())
        if not waiting or (len(waiting) < self.batch_rows and not everyone and self._patience() > 0):
            return
        chosen = waiting[: self.batch_rows]
        observations = [self._running[i].observe(self._running[i].key.mode == Mode.THINK.value) for i in chosen]
        began = time.perf_counter()
        decisions = self.policy.act(observations)
        self._call_s = time.perf_counter() - began
        for index, decision in zip(chosen, decisions, strict=True):
            self._decided(index, decision)

    def _decided(self, index: int, decision: Decision) -> None:
        episode = self._running[index]
        view = episode.view
        assert view is not None
        episode.learn(decision, self.protocol.freeze_chunks)
        episode.view = None
        if np.isfinite(decision.actions).all():
            actions = np.clip(decision.actions[: self.protocol.execute], -1.0, 1.0)
            self.pool.execute(index, Chunk(actions))
        else:
            self._finish(index, episode.result(view, Outcome.FAILURE, NOT_FINITE))

    def _finish(self, index: int, result: EpisodeResult) -> None:
        """The film first: a row in the ledger means that everything of the episode is on disk."""
        episode = self._running.pop(index)
        if episode.film is not None:
            self.save_film(result, episode.film)
        self.ledger.record(result)
        self.finished(result)

    def _broke(self, index: int, reason: str) -> None:
        """The simulator's fault: try again, three times in all."""
        episode = self._running.pop(index)
        if self.ledger.record_attempt(episode.key, reason) < MAX_ATTEMPTS:
            self._queue.insert(0, episode.key)
            return
        result = EpisodeResult(episode.key, "", "", Outcome.ERROR, steps=0, reason=f"{MAX_ATTEMPTS} attempts: {reason}")
        self.ledger.record(result)
        self.finished(result)
