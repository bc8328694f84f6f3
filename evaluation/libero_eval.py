"""Stage `evaluate`: rollouts of one adapter on one subset, from the plan to the published records.

Outputs: episodes.jsonl (sorted, without timings: equal for equal inputs, whatever was interrupted), timings.jsonl,
summary.json, videos/. The ledger in the work folder is what a killed stage resumes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from configs.schema import canonical
from configs.slices import EvaluateSlice
from data_pipeline.contract import StageContext, digest
from data_pipeline.libero_utils import MAX_STEPS
from data_pipeline.whole_files import write_text
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Protocol, Shows, make_protocol, plan, to_row
from evaluation.ledger import Ledger
from evaluation.policy_api import Policy
from evaluation.progress import Film
from evaluation.rollout import Engine
from evaluation.simulators import SimulatorPool, shared_pool
from evaluation.statistics import wilson

EPISODES, TIMINGS, SUMMARY, VIDEOS = "episodes.jsonl", "timings.jsonl", "summary.json", "videos"
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
    """Run what the ledger does not have, then export."""
    protocol = subject.protocol(config)
    keys = plan(config.eval, config.tasks, config.modes)
    fingerprint = pool.describe(config.subset, config.tasks[0]).fingerprint
    run = digest({"adapter": subject.adapter, "protocol": asdict(protocol), "fingerprint": fingerprint})
    (context.work / VIDEOS).mkdir(exist_ok=True)
    with Ledger(context.work / LEDGER, run) as ledger:
        _run_missing(config, context, subject, pool, ledger, protocol, keys)
        results = [result for result in ledger.results() if result.key in set(keys)]
    identity = {
        "subset": config.subset.value,
        "run": run,
        "protocol": protocol.name,
        "fingerprint": digest(fingerprint),
    }
    rows = [identity | to_row(result) for result in results]
    times = [asdict(result.key) | dict(result.timing) for result in results]
    write_text(context.work / EPISODES, _lines(rows))
    write_text(context.work / TIMINGS, _lines(times))
    summary = {
        **identity,
        "adapter": subject.adapter,
        "card": dict(subject.card),
        "fingerprint": fingerprint,
        "protocol": asdict(protocol),
        "described": {mode.value: protocol.describe(mode.value) for mode in config.modes},
        "eval": canonical(config.eval),
        "modes": {mode.value: summarise([r for r in results if r.key.mode == mode.value]) for mode in config.modes},
        "errors": sum(r.outcome is Outcome.ERROR for r in results),
        "videos": [
            film_name(key) for key in _to_film(config, keys) if (context.work / VIDEOS / film_name(key)).is_file()
        ],
    }
    write_text(context.work / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return [EPISODES, TIMINGS, SUMMARY, VIDEOS]


def _run_missing(
    config: EvaluateSlice,
    context: StageContext,
    subject: Subject,
    pool: SimulatorPool,
    ledger: Ledger,
    protocol: Protocol,
    keys: Sequence[EpisodeKey],
) -> None:
    done = ledger.done()
    missing = [key for key in keys if key not in done]
    progress = _Progress(context, len(keys), len(keys) - len(missing))

    def save_film(result: EpisodeResult, film: Film) -> None:
        from evaluation.video import write_film

        caption = (
            f"{result.instruction}  [{result.key.mode}, init state {result.key.init_state}: {result.outcome.value}]"
        )
        write_film(context.work / VIDEOS / film_name(result.key), film, caption)

    Engine(
        subset=config.subset,
        protocol=protocol,
        pool=pool,
        policy=subject.policy,
        shows=subject.shows,
        ledger=ledger,
        batch_rows=config.eval.batch_rows,
        to_film=frozenset(_to_film(config, keys)),
        save_film=save_film,
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


def summarise(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Counts of one mode: errors are not episodes of the policy, so n leaves them out."""
    tasks = sorted({r.key.task_id for r in results})
    queries, actions = sum(r.queries for r in results), [r for r in results if r.queries]
    return {
        **_counts(results),
        "tasks": {str(task): _task_counts([r for r in results if r.key.task_id == task]) for task in tasks},
        "queries": queries,
        "tokens_per_query": round(sum(r.tokens for r in actions) / queries, 2) if queries else 0.0,
        "free_decodable": sum(r.free_decodable for r in results),
        "reasoning_forced": sum(r.reasoning_forced for r in results),
        "reasons": _tally(r.reason for r in results if r.outcome is not Outcome.SUCCESS),
    }


def _task_counts(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    named = next((r.task_name for r in results if r.task_name), "")
    return {"name": named, **_counts(results)}


def _counts(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    successes = sum(r.outcome is Outcome.SUCCESS for r in results)
    errors = sum(r.outcome is Outcome.ERROR for r in results)
    trials = len(results) - errors
    interval = wilson(successes, trials)
    return {
        "successes": successes,
        "trials": trials,
        "errors": errors,
        "interval": [round(interval.low, 6), round(interval.high, 6)],
    }


def _tally(reasons: Iterable[str]) -> dict[str, int]:
    found = list(reasons)
    return {reason: found.count(reason) for reason in sorted(set(found))}


def _to_film(config: EvaluateSlice, keys: Sequence[EpisodeKey]) -> list[EpisodeKey]:
    """The first `eval.videos` episodes of each mode."""
    return [key for mode in config.modes for key in [k for k in keys if k.mode == mode.value][: config.eval.videos]]


def film_name(key: EpisodeKey) -> str:
    """File name of a rollout's film, in videos/."""
    return f"{key.mode}_task{key.task_id:02d}_init{key.init_state:02d}.mp4"


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
