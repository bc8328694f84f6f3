"""Stage `evaluate`: rollouts of one adapter on one subset, from the plan to the published records.

Outputs: see `evaluation.records`. The ledger in the work folder is what a killed stage resumes from; a finished
evaluation that is opened again for its error rows starts from its own records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from configs.building import canonical
from configs.slices import EvaluateSlice
from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.whole_files import write_json
from evaluation import film
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Protocol, Shows, make_protocol, plan
from evaluation.identity import Identity, difference, identity_of
from evaluation.ledger import Finished, Ledger
from evaluation.messages import PERTURBATION
from evaluation.policy_api import Policy
from evaluation.records import (
    EPISODES,
    FILES,
    SUMMARY,
    VIDEOS,
    film_name,
    read_finished,
    read_summary,
    summarise,
    write_records,
)
from evaluation.rollout import Engine
from evaluation.simulators import SimulatorPool, shared_pool

LEDGER = "ledger.sqlite"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a policy and what it is known as."""

    policy: Policy
    adapter: str  # digest of its weights and everything beside them
    card: Mapping[str, Any]  # plain values for the report: phase, base, versions
    shows: Shows = Shows.IMAGE  # what the policy wants to be shown
    execute: int = 0  # steps per query of a policy with its own number; 0: the settings'

    def protocol(self, config: EvaluateSlice) -> Protocol:
        """How its episodes are run."""
        protocol = _protocol(config)
        return replace(protocol, execute=self.execute) if self.execute else protocol


def executed(config: EvaluateSlice) -> int:
    """Steps per query that the settings ask for."""
    return _protocol(config).execute


def _protocol(config: EvaluateSlice) -> Protocol:
    return make_protocol(config.eval, config.execute, MAX_STEPS[config.subset])


def run_evaluate(config: EvaluateSlice, context: StageContext) -> list[str]:
    """See the module. Inputs `adapter`, and `base` where the adapter needs one trained here."""
    from evaluation.policy import load_subject  # torch: only when the stage runs

    with shared_pool(config.eval, config.env) as pool:  # it starts while the model loads
        subject = load_subject(config, context.inputs["adapter"], context.inputs.get("base"))
        return evaluate(config, context, subject, pool)


def evaluate(config: EvaluateSlice, context: StageContext, subject: Subject, pool: SimulatorPool) -> list[str]:
    """Run what the ledger does not have, then export, then film."""
    keys = plan(config.eval, config.tasks, config.modes)
    perturbed = {PERTURBATION: config.eval.perturb} if config.eval.perturb else {}
    identity = Identity(
        subset=config.subset.value,
        adapter=subject.adapter,
        base=str(subject.card.get("base", "")),
        protocol=subject.protocol(config),
        environment=pool.describe(config.subset, config.tasks[0]).fingerprint | perturbed,
        computed=str(subject.card.get("computed", "")),
    )
    with Ledger(context.work / LEDGER, identity) as ledger:
        if ledger.set_aside is not None:
            context.remarks["ledger"] = f"{LEDGER} could not be read: set aside, its episodes ran again"
            print(f"{context.work / LEDGER} is damaged or of another version: set aside as {ledger.set_aside.name}")
        if (context.work / EPISODES).is_file() and not ledger.done():
            ledger.adopt(_records_of(context.work, identity))
        _run_missing(config, context, subject, pool, ledger, keys)
        planned = set(keys)
        episodes = [episode for episode in ledger.finished() if episode.result.key in planned]
    videos = _make_films(config, context, pool, identity, episodes)
    results = [episode.result for episode in episodes]
    summary = {
        **identity.columns,
        "card": dict(subject.card),
        "fingerprint": dict(identity.environment),
        "protocol": asdict(identity.protocol),
        "described": {mode.value: identity.protocol.describe(mode.value) for mode in config.modes},
        "eval": canonical(config.eval),
        "env": canonical(config.env),
        "modes": {mode.value: summarise([r for r in results if r.key.mode == mode]) for mode in config.modes},
        "errors": sum(r.outcome is Outcome.ERROR for r in results),
        "videos": videos,
    }
    write_json(context.work / SUMMARY, summary)
    write_records(context.work, identity, episodes)
    return FILES


def _records_of(folder: Path, identity: Identity) -> list[Finished]:
    """Of the finished evaluation that this work folder was. Raises EnvironmentProblem where it is not this run's."""
    before = identity_of(read_summary(folder))
    if differs := difference(asdict(before), asdict(identity)):
        raise EnvironmentProblem(
            f"the finished episodes in {folder} cannot be kept beside new ones: they were run under other conditions "
            f"(then and now: {differs}). Run the command where they were run, or evaluate everything again with "
            "`--force evaluate`"
        )
    return read_finished(folder)


def _run_missing(
    config: EvaluateSlice,
    context: StageContext,
    subject: Subject,
    pool: SimulatorPool,
    ledger: Ledger,
    keys: Sequence[EpisodeKey],
) -> None:
    done = ledger.done()
    missing = [key for key in keys if key not in done]
    progress = _Progress(context, len(keys), len(keys) - len(missing))
    Engine(
        subset=config.subset,
        protocol=ledger.identity.protocol,
        pool=pool,
        policy=subject.policy,
        shows=subject.shows,
        ledger=ledger,
        batch_rows=config.eval.batch_rows,
        finished=progress.finished,
        checkpoint=context.checkpoint,
    ).run(missing)


class _Progress:
    """Counts finished episodes and successes for the display."""

    def __init__(self, context: StageContext, total: int, done: int) -> None:
        self._context, self._total, self._done = context, total, done

    def finished(self, result: EpisodeResult) -> None:
        self._done += 1
        note = f"task {result.key.task_id} init {result.key.init_state} {result.key.mode}: {result.outcome.value}"
        self._context.report(self._done, self._total, note)


def _make_films(
    config: EvaluateSlice,
    context: StageContext,
    pool: SimulatorPool,
    identity: Identity,
    episodes: Sequence[Finished],
) -> list[str]:
    """Film the first failures and successes; returns the files' names. Those of an earlier attempt are kept."""
    from evaluation.video import write_film  # ffmpeg: only where films are made

    folder = context.work / VIDEOS
    folder.mkdir(exist_ok=True)
    names = {key: film_name(key) for key in film.choose([e.result for e in episodes], config.eval.videos)}
    for path in folder.iterdir():
        if path.name not in names.values():
            path.unlink()

    def shown(episode: Finished, replayed: EpisodeResult, frames: film.Frames) -> None:
        film.check_same(episode.result, replayed, "`eval.videos=0` finishes without films")
        write_film(folder / names[replayed.key], frames, film.caption(replayed))

    missing = [e for e in episodes if e.result.key in names and not (folder / names[e.result.key]).is_file()]
    film.replay(missing, identity, pool, shown, context.checkpoint)
    return list(names.values())
