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

from configs.choices import Mode, Subset
from data_pipeline.contract import EnvironmentProblem
from evaluation.episodes import NOTHING_DONE, EpisodeKey, EpisodeRequest, EpisodeResult, Outcome, Protocol, Shows
from evaluation.identity import difference
from evaluation.ledger import Ledger
from evaluation.messages import PERTURBATION, Begin, Chunk, View
from evaluation.policy_api import Decision, Policy
from evaluation.progress import Episode
from evaluation.simulators import Broken, Lost, SimulatorPool

if TYPE_CHECKING:
    from data_pipeline.raw_loader import ReplayStart

MAX_ATTEMPTS = 3
"""A simulator that breaks three times on an episode makes it an error row."""

GATHER_S = 0.05
"""How long a ready request waits at least for others, so that they share a forward pass; about the time of a chunk.

At most it waits as long as the last call of the policy took: answering alone would cost the others that much. While no
simulator process lacks work, it waits for a full batch up to FILL_S: that costs nobody's time."""

FILL_S = 1.0

NOT_FINITE = "the policy gave a non-finite action"
TIME_LIMIT = "step limit"


@dataclass
class Engine:
    """Runs episodes to the end of the plan. `checkpoint` is called often and may raise to stop."""

    subset: Subset
    protocol: Protocol
    pool: SimulatorPool
    policy: Policy
    ledger: Ledger
    batch_rows: int
    shows: Shows = Shows.IMAGE
    starts: Mapping[EpisodeKey, ReplayStart] = field(default_factory=dict[EpisodeKey, "ReplayStart"])
    finished: Callable[[EpisodeResult], None] = lambda result: None
    checkpoint: Callable[[], None] = lambda: None
    _queue: list[EpisodeKey] = field(default_factory=list)
    _running: dict[int, Episode] = field(default_factory=dict)  # by seat
    _call_s: float = 0.0  # duration of the policy's last call

    def run(self, keys: Sequence[EpisodeKey]) -> None:
        """Run these episodes; each ends as a row of the ledger."""
        self._queue = list(keys)
        while self._queue or self._running:
            self.checkpoint()
            self._assign()
            for seat, answer in self.pool.poll(self._patience()):
                if isinstance(answer, Broken):
                    self._broke(seat, answer.reason)
                elif isinstance(answer, Lost):
                    self._queue.insert(0, self._running.pop(seat).key)
                elif isinstance(answer, View):
                    self._shown(seat, answer)
            self._serve()

    def _assign(self) -> None:
        """Give the free seats something to do, the emptiest worker first."""
        while self._queue and (free := self.pool.free()):
            seat = free[0]
            key = self._queue.pop(self.pool.preferred(seat, [(self.subset, key.task_id) for key in self._queue]))
            self._running[seat] = Episode(key, time.perf_counter())
            self.pool.begin(seat, Begin(self._request(key)))

    def _request(self, key: EpisodeKey) -> EpisodeRequest:
        """The perturbation is the environment's: what is asked for is what every row says."""
        perturbation = self.ledger.identity.environment.get(PERTURBATION, "")
        return EpisodeRequest(
            self.subset, key, self.protocol, self.starts.get(key), shows=self.shows, perturbation=perturbation
        )

    def _patience(self) -> float:
        """How long to wait for answers: until the oldest waiting request should be served."""
        waiting = [e.waiting_since for e in self._running.values() if e.view is not None]
        if not waiting:
            return 1.0
        patience_s = max(GATHER_S, self._call_s) if self.pool.starving else FILL_S
        if self.shows is not Shows.IMAGE:  # a policy that does not look answers at once
            patience_s = 0.0
        return max(0.0, min(waiting) + patience_s - time.perf_counter())

    def _shown(self, seat: int, view: View) -> None:
        episode = self._running[seat]
        self._check_environment(view)
        episode.spend(view.spent)
        episode.moved(view)
        if view.success:
            self._finish(seat, episode.result(view, Outcome.SUCCESS, ""))
        elif view.over:
            self._finish(seat, episode.result(view, Outcome.FAILURE, TIME_LIMIT))
        else:
            episode.view, episode.waiting_since = view, time.perf_counter()

    def _serve(self) -> None:
        """One call of the policy, if a batch is full, nobody else is coming, or someone has waited long enough."""
        waiting = sorted(
            (seat for seat, episode in self._running.items() if episode.view is not None),
            key=lambda seat: self._running[seat].waiting_since,
        )
        everyone = len(waiting) == len(self._running) and (not self._queue or not self.pool.free())
        if not waiting or (len(waiting) < self.batch_rows and not everyone and self._patience() > 0):
            return
        chosen = waiting[: self.batch_rows]
        observations = [self._running[i].observe(self._running[i].key.mode == Mode.THINK.value) for i in chosen]
        began = time.perf_counter()
        decisions = self.policy.act(observations)
        self._call_s = time.perf_counter() - began
        for seat, decision in zip(chosen, decisions, strict=True):
            self._decided(seat, decision)

    def _decided(self, seat: int, decision: Decision) -> None:
        episode = self._running[seat]
        view = episode.view
        assert view is not None
        episode.learn(decision, self.protocol.freeze_chunks)
        episode.view = None
        if decision.gives_up:
            self._finish(seat, episode.result(view, Outcome.FAILURE, decision.gives_up))
        elif np.isfinite(decision.actions).all():
            actions = np.clip(decision.actions[: self.protocol.execute], -1.0, 1.0)
            episode.sent = actions
            self.pool.execute(seat, Chunk(actions))
        else:
            self._finish(seat, episode.result(view, Outcome.FAILURE, NOT_FINITE))

    def _finish(self, seat: int, result: EpisodeResult) -> None:
        episode = self._running.pop(seat)
        self.pool.leave(seat)
        self.ledger.record(result, episode.trace)
        self.finished(result)

    def _check_environment(self, view: View) -> None:
        """Every row is of the run's environment, or there is none."""
        if differs := difference(self.ledger.identity.environment, view.description.fingerprint):
            raise EnvironmentProblem(
                f"a simulator process has another environment than this run (run and process: {differs}); rows of two "
                "environments never merge. Let every process see the same packages, assets and GL libraries"
            )

    def _broke(self, seat: int, reason: str) -> None:
        """The simulator's fault: try again, three times in all."""
        episode = self._running.pop(seat)
        self.pool.leave(seat)
        if self.ledger.record_attempt(episode.key, reason) < MAX_ATTEMPTS:
            self._queue.insert(0, episode.key)
            return
        why, fingerprint = f"{MAX_ATTEMPTS} attempts: {reason}", self.ledger.identity.fingerprint
        result = EpisodeResult(episode.key, "", "", Outcome.ERROR, steps=0, reason=why, fingerprint=fingerprint)
        self.ledger.record(result, NOTHING_DONE)
        self.finished(result)
