"""An episode in progress: what the engine knows of it between its first view and its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome
from evaluation.messages import View
from evaluation.policy_api import NO_IMAGE, Decision, Observation

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
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("policy_s", "reset_s", "physics_s", "render_s"), 0.0)
    )
    film: Film | None = None

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
            self.kept, self.kept_for, self.text = decision.reasoning, freeze_chunks - 1, decision.text
        if self.queries == 0:
            self.first_text = decision.text
        self.queries += 1
        self.tokens += decision.tokens
        self.free_decodable += decision.free_decodable
        self.forced += decision.forced
        self.spend({"policy_s": decision.seconds})
        if self.film is not None and self.view.image is not None:
            self.film.append((self.view.image, self.text))

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Add time by kind of work."""
        for what, more in seconds.items():
            self.spent[what] += more

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
            queries=self.queries,
            tokens=self.tokens,
            free_decodable=self.free_decodable,
            reasoning=self.first_text,
            reasoning_forced=self.forced,
            milestones=view.milestones,
            timing={what: round(seconds, 4) for what, seconds in timing.items()},
        )
