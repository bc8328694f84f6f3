"""An episode in progress: what the engine knows of it between its first view and its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.contract import digest
from evaluation.episodes import NOTHING_DONE, EpisodeKey, EpisodeResult, Outcome, Trace
from evaluation.messages import View
from evaluation.policy_api import NO_IMAGE, Decision, Observation


@dataclass
class Episode:
    """An episode in progress."""

    key: EpisodeKey
    began: float
    view: View | None = None  # set while the policy owes an answer
    waiting_since: float = 0.0
    kept: tuple[int, ...] = ()
    kept_for: int = 0  # chunks for which the current reasoning may still be used
    sent: np.ndarray | None = None  # the chunk that the simulator executes
    executed: list[np.ndarray] = field(default_factory=list[np.ndarray])
    thoughts: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])  # (step, reasoning written there)
    latency_s: list[float] = field(default_factory=list[float])  # of each query
    tokens: list[int] = field(default_factory=list[int])  # of each query
    free_decodable: int = 0
    forced: int = 0
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("policy_s", "reset_s", "physics_s", "render_s"), 0.0)
    )

    def observe(self, protocol_think: bool) -> Observation:  # noqa: FBT001 - a mode
        """The query that the current view asks."""
        assert self.view is not None
        view, image = self.view, NO_IMAGE if self.view.image is None else self.view.image
        kept = self.kept if self.kept_for > 0 else ()
        instruction = view.description.instruction
        return Observation(image, instruction, protocol_think, view.steps, kept, self.key, view.advice)

    def learn(self, decision: Decision, freeze_chunks: int) -> None:
        """Book-keeping after the policy answered."""
        assert self.view is not None
        if self.kept_for > 0 and self.kept:
            self.kept_for -= 1
        else:
            self.kept, self.kept_for = decision.reasoning, freeze_chunks - 1
        if decision.text:
            self.thoughts.append((self.view.steps, decision.text))
        self.latency_s.append(round(decision.latency_s, 4))
        self.tokens.append(decision.tokens)
        self.free_decodable += decision.free_decodable
        self.forced += decision.forced
        self.spend({"policy_s": decision.seconds})

    def moved(self, view: View) -> None:
        """Book-keeping after the simulator answered: it may have stopped within the chunk."""
        if self.sent is not None:
            self.executed.append(self.sent[: view.steps - sum(map(len, self.executed))])

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Add time by kind of work."""
        for what, more in seconds.items():
            self.spent[what] += more

    @property
    def trace(self) -> Trace:
        """What was done and thought so far."""
        actions = np.concatenate(self.executed) if self.executed else NOTHING_DONE.actions
        return Trace(actions, tuple(self.thoughts))

    def result(self, view: View, outcome: Outcome, reason: str) -> EpisodeResult:
        """The finished record. Of its wall time, what nobody worked for it is `waiting_s`."""
        wall_s = time.perf_counter() - self.began
        timing = {"wall_s": wall_s, **self.spent, "waiting_s": wall_s - sum(self.spent.values())}
        return EpisodeResult(
            key=self.key,
            task_name=view.description.task_name,
            instruction=view.description.instruction,
            perturbed=view.description.perturbed,
            outcome=outcome,
            steps=view.steps,
            reason=reason,
            queries=len(self.tokens),
            tokens=sum(self.tokens),
            free_decodable=self.free_decodable,
            reasoning=self.thoughts[0][1] if self.thoughts else "",
            reasoning_forced=self.forced,
            milestones=view.milestones,
            fingerprint=digest(view.description.fingerprint),
            timing={what: round(seconds, 4) for what, seconds in timing.items()}
            | {"latency_s": self.latency_s, "tokens": self.tokens},
        )
