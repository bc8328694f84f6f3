"""Stage `reword`: the rules' annotations with their texts reworded by a language model, demonstration by demonstration.

Whatever the model does not word well keeps the rules' words. Only the texts `task`, `plan`, `subtask_reason` and
`move_reason` can change, and of those never a measurement; everything else of annotations.json stays as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.slices import RewordSlice
from data_pipeline.contract import Interrupted, StageContext
from data_pipeline.llm_asker import Asker, Client
from data_pipeline.llm_cache import ReplyCache, Request
from data_pipeline.llm_checks import BadContent, judge, read_reply
from data_pipeline.llm_money import Forecast, Ledger, Price, prompt_tokens_at_most, usd_text
from data_pipeline.llm_pace import Clock
from data_pipeline.llm_prompts import REASONS, SHARED, Demo, Item, Question, reworded_steps
from data_pipeline.llm_quality import Outcome, quality, quality_lines

MAX_REASKS = 2
ANNOTATIONS, QUALITY, LEDGER = "annotations.json", "quality.json", "spent.jsonl"
_SOURCE_OF = {"task": "task", "plan": "plan", "subtask_reason": "subtask_reasoning", "move_reason": "move_reasoning"}

Tree = dict[str, dict[str, Any]]  # annotations.json: {file: {demo: entry}}


def run_reword(config: RewordSlice, context: StageContext) -> list[str]:
    """Stage `reword`. The API key is in the environment, under the name that the configuration gives.

    Raises ConfigError (wrong key, unknown model, --max-usd reached), EnvironmentProblem (the server does not answer),
    Interrupted. Replies are kept in `config.folder` in every case.
    """
    tree: Tree = json.loads((context.inputs["annotate"] / ANNOTATIONS).read_text(encoding="utf-8"))
    outcomes = asyncio.run(_with_client(config, context, demos_of(tree)))
    price = Price(config.usd_per_mtok_in, config.usd_per_mtok_out)
    said = {"model": config.model, "base_url": config.base_url, "prompt_version": config.prompt_version}
    report = quality(outcomes, price, said)
    print("\n".join(quality_lines(report)))
    _apply(tree, outcomes, config.model)
    _write(context.work / ANNOTATIONS, json.dumps(tree, ensure_ascii=False, separators=(",", ":")))
    _write(context.work / QUALITY, json.dumps(report, indent=2) + "\n")
    return [ANNOTATIONS, QUALITY]


async def _with_client(config: RewordSlice, context: StageContext, demos: Sequence[Demo]) -> list[Outcome]:
    from data_pipeline.llm_client import ChatClient  # openai takes a second to import

    client = ChatClient(config, os.environ.get(config.api_key_env, ""))
    try:
        return await reword(config, context, demos, client)
    finally:
        await client.close()


async def reword(
    config: RewordSlice, context: StageContext, demos: Sequence[Demo], client: Client, clock: Clock | None = None
) -> list[Outcome]:
    """Ask about every demonstration at the server's pace; shared texts reach those that did not ask for them."""
    folder = Path(config.folder)
    asker = Asker(
        client=client,
        cache=ReplyCache(folder),
        ledger=Ledger(folder / LEDGER),
        price=Price(config.usd_per_mtok_in, config.usd_per_mtok_out),
        limit_usd=config.max_usd,
        concurrency=config.concurrency,
        stop_requested=context.stop_requested,
        clock=clock,
    )
    done = 0
    context.report(0, len(demos), forecast(config, demos).text(asker.ledger.spent(), config.max_usd))

    async def one(demo: Demo, items: Sequence[Item]) -> Outcome:
        nonlocal done
        outcome = await _ask(asker, config, demo, items)
        done += 1
        context.report(done, len(demos), f"{asker.sent} calls, {usd_text(asker.ledger.spent())} of ${config.max_usd:g}")
        return outcome

    found = await asyncio.gather(*(one(demo, items) for demo, items in questions(demos)), return_exceptions=True)
    if asker.failure is not None:
        raise asker.failure
    if any(isinstance(result, Interrupted) for result in found):
        raise Interrupted
    outcomes: list[Outcome] = []
    for result in found:
        if isinstance(result, BaseException):
            raise result
        outcomes.append(result)
    return outcomes


async def _ask(asker: Asker, config: RewordSlice, demo: Demo, items: Sequence[Item]) -> Outcome:
    """One question, and at most MAX_REASKS more about what was not taken, with the reason."""
    outcome = Outcome(demo)
    for attempt in range(1, 2 + MAX_REASKS):
        open_items = tuple(item for item in items if item.id not in outcome.wordings)
        request = request_of(config, Question(demo, open_items, outcome.problems, attempt))
        try:
            completion = await asker.completion(request)
            outcome.calls[request.key] = completion
            taken, outcome.problems = judge(demo, open_items, read_reply(completion.answer()))
        except BadContent as bad:
            taken, outcome.problems = {}, dict.fromkeys((item.id for item in open_items), bad.problem)
        outcome.wordings |= taken
        if not outcome.problems:
            break
    return outcome


# ------------------------------------------------------------------ who asks what


def demos_of(tree: Tree) -> list[Demo]:
    """Every demonstration of annotations.json, sorted."""
    demos = (Demo.of(entry) for episodes in tree.values() for entry in episodes.values())
    return sorted(demos, key=lambda demo: demo.episode)


def questions(demos: Iterable[Demo]) -> list[tuple[Demo, tuple[Item, ...]]]:
    """Each demonstration with the items it asks about: of equal tasks and plans only the first asks about those too."""
    seen: set[tuple[str, str]] = set()
    asked: list[tuple[Demo, tuple[Item, ...]]] = []
    for demo in demos:
        shared = demo.shared if (demo.task, demo.plan) not in seen else ()
        seen.add((demo.task, demo.plan))
        asked.append((demo, (*shared, *demo.items)))
    return asked


def request_of(config: RewordSlice, question: Question) -> Request:
    """What is sent for a question."""
    return Request(config.model, config.base_url, question.messages(), question.max_tokens() + config.thinking_tokens)


def forecast(config: RewordSlice, demos: Iterable[Demo]) -> Forecast:
    """From the very prompts that will be sent."""
    cache, price = ReplyCache(Path(config.folder)), Price(config.usd_per_mtok_in, config.usd_per_mtok_out)
    requests = {r.key: r for demo, items in questions(demos) for r in [request_of(config, Question(demo, items))]}
    new = [request for request in requests.values() if not cache.path(request).exists()]
    sizes = [(prompt_tokens_at_most(request.messages), request.max_tokens) for request in new]
    return Forecast.of(price, sizes, cached=len(requests) - len(new))


# ------------------------------------------------------------------ the result


def _apply(tree: Tree, outcomes: Sequence[Outcome], model: str) -> None:
    """Put the wordings in place, and who wrote what into `source`."""
    by_episode = {outcome.demo.episode: outcome for outcome in outcomes}
    shared: dict[tuple[str, str], Mapping[str, str]] = {}
    for outcome in outcomes:
        key = outcome.demo.task, outcome.demo.plan
        shared.setdefault(key, {name: outcome.wordings[name] for name in SHARED if name in outcome.wordings})
    for episodes in tree.values():
        for entry in episodes.values():
            demo = Demo.of(entry)
            wordings = {**by_episode[demo.episode].wordings, **shared[demo.task, demo.plan]}
            entry["reasoning"] = reworded_steps(demo, entry, wordings)
            entry["source"] = dict(sorted({**entry["source"], **_sources(demo, wordings, model)}.items()))


def _sources(demo: Demo, wordings: Mapping[str, str], model: str) -> dict[str, str]:
    """Field -> `llm:<model>`, or that and `rules` where some segments kept the rules' words."""
    sources: dict[str, str] = {}
    for name in (*SHARED, *REASONS):
        items = [item for item in (*demo.shared, *demo.items) if item.field == name]
        written = sum(item.id in wordings for item in items)
        both = f"llm:{model}" if written == len(items) else f"llm:{model}, rules"
        sources |= {_SOURCE_OF[name]: both} if written else {}
    return sources


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
