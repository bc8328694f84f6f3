"""What a rewording is worth: how much, why not the rest, whether it is still true, how long, at what cost. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.llm_checks import Completion, directions
from data_pipeline.llm_money import Price, usd_text
from data_pipeline.llm_prompts import REASONS, SHARED, Demo, Problem, skeleton

MAX_LISTED = 100  # examples of what was not taken


@dataclass
class Outcome:
    """What became of one demonstration's items."""

    demo: Demo
    wordings: dict[str, str] = field(default_factory=dict[str, str])  # item id -> text
    problems: dict[str, Problem] = field(default_factory=dict[str, Problem])  # item id -> why it kept the rules' words
    calls: dict[str, Completion] = field(default_factory=dict[str, Completion])  # request key -> answer


def quality(outcomes: Sequence[Outcome], price: Price, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The quality report as plain values; `limits` is copied (model, prompt version).

    Calls, tokens and money are those of the replies used, whenever they were paid; tries that brought none are in the
    ledger only.
    """
    problems = Counter(problem.kind for outcome in outcomes for problem in outcome.problems.values())
    taken = sum(len(outcome.wordings) for outcome in outcomes)
    asked = taken + problems.total()
    calls = {key: call for outcome in outcomes for key, call in outcome.calls.items()}.values()  # equal ones are one
    tokens = (sum(max(c.prompt_tokens, 0) for c in calls), sum(max(c.completion_tokens, 0) for c in calls))
    return {
        **limits,
        "demos": len(outcomes),
        "texts": {"asked": asked, "reworded": taken, "share": _share(taken, asked)},
        "kept_rules": {kind: {"texts": n, "share": _share(n, asked)} for kind, n in problems.most_common()},
        "examples_kept": _examples(outcomes),
        "unchanged": sum(_rules(outcome, i) == text for outcome in outcomes for i, text in outcome.wordings.items()),
        "steps": _steps(outcomes),
        "motion": _motion(outcomes),
        "characters": {name: _lengths(outcomes, name) for name in (*SHARED, *REASONS)},
        "calls": len(calls),
        "tokens": {"prompt": tokens[0], "completion": tokens[1]},
        "usd": round(price.usd(*tokens), 6),
    }


def quality_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for people."""
    texts, steps, motion = report["texts"], report["steps"], report["motion"]
    why = ", ".join(f"{kind} {entry['texts']}" for kind, entry in report["kept_rules"].items())
    lengths = "; ".join(
        f"{name} {entry['rules']['mean']:g} -> {now['mean']:g} (p95 {now['p95']}, max {now['max']})"
        for name, entry in report["characters"].items()
        for now in [entry["now"]]
    )
    return [
        f"reworded by {report['model']}: {texts['reworded']} of {texts['asked']} texts ({100 * texts['share']:.1f} %), "
        f"{steps['reworded']} of {steps['all']} steps in full; {report['unchanged']} came back unchanged",
        f"kept the rules' words: {why or 'none'}",
        f"texts that name a direction, by step: {motion['agree']} of {motion['naming']} agree with the true motion",
        f"characters, rules -> now: {lengths}",
        f"{report['calls']} replies used, {report['tokens']['prompt']} + {report['tokens']['completion']} tokens, "
        f"{usd_text(report['usd'])}",
    ]


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _rules(outcome: Outcome, item_id: str) -> str:
    return next(i.rules for i in (*outcome.demo.shared, *outcome.demo.items) if i.id == item_id)


def _examples(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    found = [
        {"episode": str(o.demo.episode), "id": i, "rules": _rules(o, i), "kind": p.kind, "why": p.text}
        for o in outcomes
        for i, p in o.problems.items()
    ]
    return found[:MAX_LISTED]


def _steps(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Steps of which every reason was reworded."""
    everything = [
        (s.stop - s.start, all(i.id in o.wordings for i in s.items)) for o in outcomes for s in o.demo.segments
    ]
    whole, reworded = sum(n for n, _ in everything), sum(n for n, full in everything if full)
    return {"all": whole, "reworded": reworded, "share": _share(reworded, whole)}


def _motion(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Steps whose wording names directions that the rules' words do not; those where the step's move has them all."""
    naming = agree = 0
    for outcome in outcomes:
        wordings = {
            (segment.start, item.rules): directions(outcome.wordings.get(item.id, "")) - directions(item.rules)
            for segment in outcome.demo.segments
            for item in segment.items
            if item.field == "move_reason"
        }
        for segment in outcome.demo.segments:
            for move, reason in segment.steps:
                named = wordings[segment.start, skeleton(reason)[0]]
                naming += bool(named)
                agree += bool(named) and named <= directions(move)
    return {"naming": naming, "agree": agree, "share": _share(agree, naming)}


def _lengths(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    """Characters of the texts of one field that were asked for, before and after; placeholders as they stand."""
    items = [(o, i) for o in outcomes for i in (*o.demo.shared, *o.demo.items) if i.field == name]
    asked = [(o, i) for o, i in items if i.id in o.wordings or i.id in o.problems]
    return {
        "rules": _summary([len(i.rules) for _, i in asked]),
        "now": _summary([len(o.wordings.get(i.id, i.rules)) for o, i in asked]),
    }


def _summary(lengths: Sequence[int]) -> dict[str, Any]:
    if not lengths:
        return {"mean": 0.0, "p95": 0, "max": 0}
    ordered = sorted(lengths)
    return {
        "mean": round(statistics.mean(ordered), 1),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
    }
