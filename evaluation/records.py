"""The published files of an evaluation, written by the stage and read by whoever comes later.

summary.json    what all rows have in common (identity, settings), and counts
episodes.jsonl  one row per episode, sorted by key, without timings: equal for equal inputs, whatever was interrupted
actions.npz     episode -> actions [steps, 7], exactly those that were executed
thoughts.jsonl  episode -> [[environment step, reasoning], ...], of the episodes that reasoned
timings.jsonl   seconds, and for each query its latency and tokens; timing.json: their percentiles and shares per mode
videos/         films of some of them
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import ConfigError
from data_pipeline.whole_files import write_json, write_text, written_whole
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Trace, episode_name, from_row, key_of, to_row
from evaluation.identity import Identity, difference, identity_of
from evaluation.ledger import Finished
from evaluation.statistics import wilson

EPISODES, TIMINGS, SUMMARY, VIDEOS = "episodes.jsonl", "timings.jsonl", "summary.json", "videos"
ACTIONS, THOUGHTS, TIMING = "actions.npz", "thoughts.jsonl", "timing.json"
FILES = [EPISODES, TIMINGS, SUMMARY, VIDEOS, ACTIONS, THOUGHTS, TIMING]

PERCENTILES = (50, 95)


def film_name(key: EpisodeKey) -> str:
    """File name of an episode's film, in videos/."""
    return f"{episode_name(key)}.mp4"


# ------------------------------------------------------------------ writing


def write_records(folder: Path, identity: Identity, episodes: Sequence[Finished]) -> None:
    """Everything but summary and films. episodes.jsonl comes last: with it, the others are there."""
    results = [episode.result for episode in episodes]
    with written_whole(folder / ACTIONS) as partial:
        named = {episode_name(e.result.key): e.trace.actions for e in episodes if e.result.outcome is not Outcome.ERROR}
        np.savez(partial, allow_pickle=False, **dict(sorted(named.items())))  # its zip has no dates
    thoughts = [asdict(e.result.key) | {"thoughts": e.trace.thoughts} for e in episodes if e.trace.thoughts]
    write_text(folder / THOUGHTS, _lines(thoughts))
    write_text(folder / TIMINGS, _lines(asdict(result.key) | dict(result.timing) for result in results))
    times = {mode: _of(results, mode) for mode in modes_of(results)}
    write_json(folder / TIMING, {mode: percentiles(mine) | {"share": shares(mine)} for mode, mine in times.items()})
    write_text(folder / EPISODES, _lines(identity.columns | to_row(result) for result in results))


def modes_of(results: Sequence[EpisodeResult]) -> list[str]:
    """The decoding modes that were run."""
    return sorted({result.key.mode for result in results})


def percentiles(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Of all queries: seconds from the question to its answer, tokens written for it."""
    found: dict[str, Any] = {}
    for name in ("latency_s", "tokens"):
        values = [value for result in results for value in result.timing.get(name, ())]
        found["queries"] = len(values)
        found[name] = {f"p{p}": round(float(np.percentile(values, p)), 4) for p in PERCENTILES} if values else {}
    return found


def shares(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Where the time of the episodes went. They run side by side: waiting is for the policy to answer a batch, or for
    the simulator process to be done with another episode."""
    wall_s = sum(result.timing.get("wall_s", 0.0) for result in results)
    kinds = ("reset", "physics", "render", "policy", "waiting")
    spent = {kind: sum(result.timing.get(f"{kind}_s", 0.0) for result in results) for kind in kinds}
    return {kind: round(seconds / wall_s, 4) for kind, seconds in spent.items()} if wall_s else {}


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


def _of(results: Sequence[EpisodeResult], mode: str) -> list[EpisodeResult]:
    return [result for result in results if result.key.mode == mode]


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ------------------------------------------------------------------ reading


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises ConfigError where the folder holds no evaluation, or one of another version."""
    for name in (EPISODES, SUMMARY):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}: it is no finished evaluation, e.g. outputs/eval_results/...")
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    try:
        identity_of(summary)
    except (KeyError, TypeError) as problem:
        raise ConfigError(f"{folder / SUMMARY} is of another version ({problem}); evaluate again") from None
    return summary


def read_episodes(folder: Path, summary: Mapping[str, Any]) -> list[EpisodeResult]:
    """The rows. Raises ConfigError where one is not of this evaluation, or where they are not what it counted."""
    path, columns = folder / EPISODES, identity_of(summary).columns
    rows = read_lines(path)
    for row in rows:
        if differs := difference({name: row.get(name, "") for name in columns}, columns):
            raise ConfigError(
                f"{path}: the row of {episode_name(key_of(row))} is not of the evaluation that {SUMMARY} describes "
                f"({differs}). Rows of different adapters, protocols or environments never merge: evaluate them apart"
            )
    results = [from_row(row) for row in rows]
    if twice := len(results) - len({result.key for result in results}):
        raise ConfigError(f"{path}: {twice} episodes stand there twice; evaluate again")
    for mode in sorted({*modes_of(results), *summary["modes"]}):
        counted, found = summary["modes"].get(mode, {}), summarise(_of(results, mode))
        if other := ", ".join(name for name in found if counted.get(name) != found[name]):
            raise ConfigError(f"{path} and {SUMMARY} disagree on {other} of {mode}: one was changed; evaluate again")
    return results


def with_timings(folder: Path, results: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """The rows with what lies in timings.jsonl."""
    timings = {key_of(row): row for row in read_lines(folder / TIMINGS)}
    return [replace(r, timing={k: v for k, v in timings[r.key].items() if k not in asdict(r.key)}) for r in results]


def read_finished(folder: Path) -> list[Finished]:
    """Rows, timings and traces of the episodes that are no errors."""
    results = [r for r in read_episodes(folder, read_summary(folder)) if r.outcome is not Outcome.ERROR]
    traces = read_traces(folder, [result.key for result in results])
    return [Finished(result, traces[result.key]) for result in with_timings(folder, results)]


def read_traces(folder: Path, keys: Iterable[EpisodeKey]) -> dict[EpisodeKey, Trace]:
    """What these episodes did and thought. Raises ConfigError where a file is damaged or lacks one of them."""
    thoughts = {key_of(row): tuple((s, text) for s, text in row["thoughts"]) for row in read_lines(folder / THOUGHTS)}
    try:
        with np.load(folder / ACTIONS, allow_pickle=False) as actions:
            return {key: Trace(actions[episode_name(key)], thoughts.get(key, ())) for key in keys}
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError) as problem:
        raise ConfigError(f"{folder / ACTIONS} is damaged or not of these episodes: {problem}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
