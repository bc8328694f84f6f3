"""Films of finished episodes: what was done is done again in the simulator, the reasoning beside the picture.

The same start and the same actions give the same states bit for bit. A replay that ends otherwise is no film of what
was recorded, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, episode_name
from evaluation.identity import Identity, difference
from evaluation.ledger import IN_MEMORY, Finished, Ledger
from evaluation.policy_api import Decision, Observation
from evaluation.rollout import Engine
from evaluation.simulators import SimulatorPool

Frames = list[tuple[np.ndarray, str]]
"""Pictures (uint8 [R, R, 3], ImageFrame.GL) with the reasoning acted on, query by query."""

NOTHING_LEFT = "the recorded actions came to an end"

FRAME_STEPS = 4
"""Environment steps between pictures, at least: at 20 Hz and five pictures a second this is real time."""


class RecordedPolicy:
    """Does again what was done, and keeps what it is shown."""

    def __init__(self, episodes: Mapping[EpisodeKey, Finished], execute: int) -> None:
        self._episodes = episodes
        self._execute = execute
        self.frames: dict[EpisodeKey, Frames] = {}

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """See Policy. Past the last action it gives up, for the recorded reason: a policy ended the episode there."""
        return [self._decide(o) for o in observations]

    def _decide(self, observation: Observation) -> Decision:
        assert observation.episode is not None
        episode, step = self._episodes[observation.episode], observation.step
        if step == 0:  # a simulator that broke begins again
            self.frames[observation.episode] = []
        text = next((text for at, text in reversed(episode.trace.thoughts) if at <= step), "")
        self.frames[observation.episode].append((observation.image.copy(), text))
        actions = episode.trace.actions[step : step + self._execute]
        return Decision(actions, gives_up="" if len(actions) else episode.result.reason or NOTHING_LEFT)


def choose(results: Sequence[EpisodeResult], count: int) -> list[EpisodeKey]:
    """The first `count` failures and the first `count` successes of each mode, in the order of their keys."""
    chosen: list[EpisodeKey] = []
    for mode in sorted({result.key.mode for result in results}):
        for outcome in (Outcome.FAILURE, Outcome.SUCCESS):
            keys = sorted(r.key for r in results if r.key.mode == mode and r.outcome is outcome)
            chosen += keys[:count]
    return sorted(chosen)


def replay(
    episodes: Sequence[Finished],
    identity: Identity,
    pool: SimulatorPool,
    shown: Callable[[Finished, EpisodeResult, Frames], None],
    checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Run recorded episodes again; `shown` gets each one, how the replay ended, and what was seen.

    identity: of the environment that replays, which must be the pool's.
    """
    by_key = {episode.result.key: episode for episode in episodes}
    protocol = identity.protocol
    if protocol.success_within_chunk:  # then nothing but the number of pictures hangs on the chunks
        protocol = replace(protocol, execute=max(protocol.execute, FRAME_STEPS))
    policy = RecordedPolicy(by_key, protocol.execute)
    with Ledger(IN_MEMORY, identity) as ledger:
        Engine(
            subset=Subset(identity.subset),
            protocol=protocol,
            pool=pool,
            policy=policy,
            ledger=ledger,
            batch_rows=1,
            finished=lambda result: shown(by_key[result.key], result, policy.frames.pop(result.key, [])),
            checkpoint=checkpoint,
        ).run(list(by_key))


def disagreement(recorded: EpisodeResult, replayed: EpisodeResult) -> str:
    """How a replay ended otherwise than its recording; "" where it did not."""
    names = ("outcome", "steps", "reason")
    return difference(*({name: str(getattr(result, name)) for name in names} for result in (recorded, replayed)))


def check_same(recorded: EpisodeResult, replayed: EpisodeResult, otherwise: str) -> None:
    """Raise EnvironmentProblem where a replay did not do what was recorded. otherwise: how to go on all the same."""
    if differs := disagreement(recorded, replayed):
        raise EnvironmentProblem(
            f"replaying {episode_name(recorded.key)} ended otherwise than it was recorded (recorded and replayed: "
            f"{differs}; fingerprints {recorded.fingerprint} and {replayed.fingerprint}). Its actions are kept, but "
            f"here they do something else: the simulator or its libraries are not those of the recording. {otherwise}"
        )


def caption(result: EpisodeResult, remark: str = "") -> str:
    """One line above the reasoning."""
    key = result.key
    return f"{result.instruction}  [{key.mode}, init state {key.init_state}: {result.outcome.value}]{remark}"
