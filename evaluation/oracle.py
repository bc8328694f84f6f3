"""The oracle: recorded actions through the deployed path, in the rollout engine itself, before any GPU hour.

A policy that has learned its training data perfectly writes the tokens of the recorded chunk. Here nothing is learned:
the recorded chunk is normalised and tokenised as training does, and from there on everything is the evaluation's own:
the constraint, detokenising, un-normalising, the gripper's map, chunks of so many steps, the simulator. What then
fails is the path's fault, and `oracle_faults` names it; what is lost beyond that is the tokenizer's price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.choices import Mode, Subset
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import AGENTVIEW, Episode, EpisodeId
from data_pipeline.raw_loader import Hdf5Source, ReplayStart, read_replay
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Protocol
from evaluation.identity import Identity
from evaluation.ledger import IN_MEMORY, Ledger
from evaluation.oracle_faults import Fault, Part, differing, frame_fault, recorded_gripper_fault
from evaluation.oracle_path import ActionPath, Fidelity, action_faults, measure, still
from evaluation.policy_api import Decision, Observation, Policy
from evaluation.rollout import Engine
from evaluation.simulators import SimulatorPool

PASS_RATE = 0.95
"""Share of the demonstrations that succeed raw which must succeed through the path."""


@dataclass(frozen=True)
class Recording:
    """A demonstration and how to begin where it began."""

    episode: Episode
    start: ReplayStart

    @property
    def key(self) -> EpisodeKey:
        """The demonstration's number stands where an initial state's would."""
        return EpisodeKey(self.episode.id.task_id, self.episode.id.demo, 0, Mode.NO_THINK.value)


# ------------------------------------------------------------------ which demonstrations


def recordings(folder: Path, subset: Subset, test: Sequence[EpisodeId], per_task: int) -> list[Recording]:
    """At most `per_task` demonstrations of each task, test ones first: nothing was fitted on these."""
    source = Hdf5Source(folder, subset)
    chosen: list[EpisodeId] = []
    for task in source.tasks:
        mine = sorted((e for e in source.list() if e.task_id == task), key=lambda e: (e not in test, e))
        chosen += mine[:per_task]
    return [Recording(source.open(e), read_replay(source.path(e.task_id), e.demo)) for e in chosen]


# ------------------------------------------------------------------ what the simulator makes of it


@dataclass
class RawPolicy:
    """Recorded actions as they are. Keeps each episode's first observation."""

    actions: Mapping[EpisodeKey, np.ndarray]  # float64 [T, 7], not rounded: contact may hang on the last digit
    execute: int
    first_images: dict[EpisodeKey, np.ndarray] = field(default_factory=dict[EpisodeKey, np.ndarray])

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """See Policy."""
        return [self._decide(o) for o in observations]

    def _decide(self, observation: Observation) -> Decision:
        assert observation.episode is not None
        self.first_images.setdefault(observation.episode, observation.image)
        actions = self.actions[observation.episode]
        rows = actions[observation.step : observation.step + self.execute]
        return Decision(np.concatenate([rows, np.repeat(still(actions), self.execute - len(rows), axis=0)]))


@dataclass(frozen=True)
class OraclePolicy:
    """Writes the tokens of the recorded chunk."""

    actions: Mapping[EpisodeKey, np.ndarray]  # float32 [T, 7]
    path: ActionPath

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        """See Policy."""
        return [self._decide(o) for o in observations]

    def _decide(self, observation: Observation) -> Decision:
        assert observation.episode is not None
        chunk, tokens = self.path.chunk(self.actions[observation.episode], observation.step)
        return Decision(chunk, tokens=tokens)


def roll_out(
    chosen: Sequence[Recording], policy: Policy, protocol: Protocol, pool: SimulatorPool
) -> dict[EpisodeKey, EpisodeResult]:
    """Run the engine from where each recording began."""
    subset = chosen[0].episode.id.subset
    environment = pool.describe(subset, chosen[0].episode.id.task_id).fingerprint
    with Ledger(IN_MEMORY, Identity(subset.value, "oracle", "", protocol, environment)) as ledger:
        Engine(
            subset=subset,
            protocol=protocol,
            pool=pool,
            policy=policy,
            ledger=ledger,
            batch_rows=1,
            starts={recording.key: recording.start for recording in chosen},
        ).run([recording.key for recording in chosen])
        return {result.key: result for result in ledger.results()}


Results = Mapping[EpisodeKey, EpisodeResult]


def ended(chosen: Sequence[Recording], results: Results, outcome: Outcome) -> list[Recording]:
    """The recordings that were replayed and ended so."""
    return [r for r in chosen if r.key in results and results[r.key].outcome is outcome]


@dataclass(frozen=True)
class Raw:
    """Recordings replayed as they are."""

    results: Results
    trained: tuple[np.ndarray, ...]  # first frames as training sees them, uint8 [S, S, 3]
    deployed: tuple[np.ndarray, ...]  # the same as the deployed policy sees them


def replay_raw(chosen: Sequence[Recording], path: ActionPath, protocol: Protocol, pool: SimulatorPool) -> Raw:
    """Does the simulator still do what was recorded, and does it look as it did?"""
    policy = RawPolicy({r.key: r.start.actions for r in chosen}, protocol.execute)
    results = roll_out(chosen, policy, protocol, pool)
    shown = [r for r in chosen if r.key in policy.first_images]  # an episode that broke showed nothing
    return Raw(
        results,
        tuple(path.taught.see(r.episode.frames(AGENTVIEW)[0]) for r in shown),
        tuple(path.deployed.see(policy.first_images[r.key]) for r in shown),
    )


def replay_deployed(chosen: Sequence[Recording], path: ActionPath, protocol: Protocol, pool: SimulatorPool) -> Results:
    """The recordings through the path. Raises UndecodableAction where `measure` found one."""
    return roll_out(chosen, OraclePolicy({r.key: r.episode.actions for r in chosen}, path), protocol, pool)


# ------------------------------------------------------------------ all of it


@dataclass(frozen=True)
class Row:
    """One chunk length on one subset."""

    subset: Subset
    execute: int  # steps executed of each chunk
    horizon: int
    demos: int
    raw: int  # succeed as recorded
    lost: tuple[EpisodeId, ...]  # of these, fail through the path
    fidelity: Fidelity
    errors: int = 0  # of these, the simulator broke on through the path: neither passed nor lost

    @property
    def judged(self) -> int:
        """Succeed as recorded, and the simulator held through the path too."""
        return self.raw - self.errors

    @property
    def passed(self) -> int:
        """Succeed as recorded and through the path."""
        return self.judged - len(self.lost)

    @property
    def rate(self) -> float:
        """Share of the raw successes that survive; 0 where there is none to judge by."""
        return self.passed / self.judged if self.judged else 0.0

    @property
    def good(self) -> bool:
        """Everything replays, and enough survives the path."""
        return self.raw == self.demos and self.rate >= PASS_RATE


@dataclass(frozen=True)
class Examination:
    """What the oracle found on one subset."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]

    @property
    def good(self) -> bool:
        """Nothing to mend."""
        return not self.faults and all(row.good for row in self.rows)


def examine(
    chosen: Sequence[Recording],
    path: ActionPath,
    protocols: Sequence[Protocol],
    pool: SimulatorPool,
    others: Sequence[ActionStatistics] = (),
) -> Examination:
    """One row per protocol (they differ in `execute`), and every fault once.

    others: statistics of other subsets, which may have been taken by mistake.
    """
    subset = chosen[0].episode.id.subset
    fidelities = [measure([r.episode for r in chosen], path, protocol.execute) for protocol in protocols]
    raw = replay_raw(chosen, path, protocols[-1], pool)
    drawn = differing(chosen[0].start.fingerprint, pool.describe(subset, chosen[0].episode.id.task_id).fingerprint)
    found = [
        recorded_gripper_fault([r.episode.actions for r in chosen], [r.episode.proprio[:, 6:] for r in chosen]),
        *{f.part: f for fidelity in fidelities for f in action_faults(fidelity, path, others)}.values(),
        frame_fault(raw.trained, raw.deployed, drawn),
        _raw_fault(chosen, raw.results, drawn),
        _error_fault(chosen, raw.results, "as recorded"),
    ]
    runs = ended(chosen, raw.results, Outcome.SUCCESS)
    rows: list[Row] = []
    for protocol, fidelity in zip(protocols, fidelities, strict=True):
        readable = runs if not fidelity.undecodable else []
        results = replay_deployed(readable, path, protocol, pool) if readable else {}
        broken = ended(runs, results, Outcome.ERROR)
        lost = tuple(r.episode.id for r in (ended(runs, results, Outcome.FAILURE) if readable else runs))
        horizon = path.deployed.tokenizer.horizon
        rows.append(Row(subset, protocol.execute, horizon, len(chosen), len(runs), lost, fidelity, len(broken)))
        found.append(_error_fault(runs, results, f"through the path, {protocol.execute} executed"))
    return Examination(tuple(rows), tuple(fault for fault in found if fault is not None))


def _error_fault(chosen: Sequence[Recording], results: Results, how: str) -> Fault | None:
    """Errors are the simulator's, never the path's or the tokenizer's."""
    broken = ended(chosen, results, Outcome.ERROR)
    if not broken:
        return None
    first = broken[0]
    return Fault(
        Part.SIMULATOR,
        f"it broke on {len(broken)} of {len(chosen)} recordings {how}; these count neither as passed nor as lost. "
        f"{first.episode.id}: {results[first.key].reason}",
    )


def _raw_fault(chosen: Sequence[Recording], results: Results, drawn: str) -> Fault | None:
    failed = [r.episode.id for r in ended(chosen, results, Outcome.FAILURE)]
    if not failed:
        return None
    return Fault(
        Part.SIMULATOR,
        f"{len(failed)} of {len(chosen)} recordings fail as they are ({', '.join(map(str, failed[:3]))}): the "
        f"simulator or the assets are not those that recorded them {drawn}".rstrip(),
    )
