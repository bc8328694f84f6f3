"""What may be wrong with flow and its tokens: tallies per task -> findings, each with the value and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add

from data_pipeline.findings import Check, Findings, counted, found
from flow_pipeline.flow_facts import Tally
from flow_pipeline.token_quality import ALARM_RATIO

NO_BETTER = 0.95
"""Tokens that leave this share of the error of predicting no motion tell nearly nothing."""
BEYOND_SHARE = 0.05
"""Of the moving cells: what is longer than any code says loses its length."""
SHORT_SHARE = 0.15
"""Of the steps: what the end of an episode takes is lost to training."""
STILL_SHARE = 0.5
"""Of the steps that look ahead: demonstrations are filtered, so that in most of them something moves."""
STATIC_SHARE = 0.995
DIFFERENT_PX = 0.01

Tallies = Mapping[str, Tally]
"""Per task, by its name for people; not empty."""


def total(tallies: Tallies) -> Tally:
    """All tasks together."""
    return reduce(add, tallies.values())


def run_checks(tallies: Tallies, stated_epe_moving: float | None) -> tuple[Check, ...]:
    """All checks, each named. stated_epe_moving: what the tokens' manifest says of the same cells, None: nothing."""
    checks = [Check(name, find(tallies)) for name, find in _CHECKS.items()]
    name = "tokens decode to what their manifest says"
    if stated_epe_moving is None:
        return (*checks, Check(name, (), "it does not say"))
    return (*checks, Check(name, _as_stated(total(tallies).epe_moving, stated_epe_moving)))


def _no_better(tallies: Tallies) -> Findings:
    where = [
        f"{task}: {t.epe_moving:.2f} px, no motion {t.zero_moving:.2f} px"
        for task, t in tallies.items()
        if t.moving and t.epe_moving > NO_BETTER * t.zero_moving
    ]
    return found(
        f"Tokens are no better than predicting no motion in {counted(where, 'task')}",
        where,
        "More flow.cells, or another flow.tokenizer; where lengths are near flow.static_px, a lower one.",
    )


def _spilled(tallies: Tallies) -> Findings:
    where = [
        f"{task}: {t.epe_all:.2f} px, no motion {t.zero_all:.2f} px"
        for task, t in tallies.items()
        if t.epe_all > t.zero_all
    ]
    return found(
        f"Over all cells, tokens are worse than predicting no motion in {counted(where, 'task')}",
        where,
        "Each code covers more than what moves there, and spills over its edges: more flow.cells.",
    )


def _worse(tallies: Tallies) -> Findings:
    lost = {task: t.epe_moving / t.zero_moving for task, t in tallies.items() if t.moving}
    mean = sum(lost.values()) / max(len(lost), 1)
    where = [f"{task}: {share:.0%}, mean {mean:.0%}" for task, share in lost.items() if share > ALARM_RATIO * mean]
    return found(
        f"Tokens lose {ALARM_RATIO:g} times the mean share of the motion, or more, in {counted(where, 'task')}",
        where,
        "It moves unlike the others: see its pictures below. A fitted tokenizer must have seen such motion.",
    )


def _beyond(tallies: Tallies) -> Findings:
    where = [
        f"{task}: {_percent(t.beyond, t.moving)} of the moving cells"
        for task, t in tallies.items()
        if t.beyond > BEYOND_SHARE * t.moving
    ]
    return found(
        f"Motion is longer than the tokenizer can say in {counted(where, 'task')}",
        where,
        "Its direction is kept, its length is cut. A shorter action.horizon shortens the flow.",
    )


def _short(tallies: Tallies) -> Findings:
    where = [
        f"{task}: {_percent(t.short, t.steps)} of the steps"
        for task, t in tallies.items()
        if t.short > SHORT_SHARE * t.steps
    ]
    return found(
        f"Many steps look less than half the horizon ahead and have no flow tokens in {counted(where, 'task')}",
        where,
        "Episodes are short beside the horizon: a shorter action.horizon, or longer demonstrations.",
    )


def _still(tallies: Tallies) -> Findings:
    where = [
        f"{task}: {_percent(t.still, t.steps - t.short)} of the steps"
        for task, t in tallies.items()
        if t.still > STILL_SHARE * (t.steps - t.short)
    ]
    return found(
        f"Nothing moves in most steps of {counted(where, 'task')}",
        where,
        "Either the demonstrations stand still (`nora-ecot inspect` shows their no-ops) or the backend sees nothing: "
        "compare another flow.backend. flow.static_px decides what moves.",
    )


def _static(tallies: Tallies) -> Findings:
    codes = total(tallies).codes
    most, known = int(codes.max()), int(codes.sum())
    if most <= STATIC_SHARE * known:
        return ()
    return found(
        f"One code is {_percent(most, known)} of all codes",
        [f"code {codes.argmax()}; {int((codes > 0).sum())} of {len(codes)} are used"],
        "There is nearly nothing to predict: a lower flow.static_px, more flow.cells, or a longer action.horizon.",
    )


def _as_stated(tokens_px: float, stated_px: float) -> Findings:
    differs = abs(tokens_px - stated_px) > DIFFERENT_PX
    return found(
        "Tokens do not decode to what their manifest says",
        [f"moving error {tokens_px:.3f} px, manifest {stated_px:.3f} px"] if differs else [],
        "They were made of other flow or by another version: make them again with scripts/preprocess_flow.py.",
    )


_CHECKS: dict[str, Callable[[Tallies], Findings]] = {
    "tokens tell more than no motion": _no_better,
    "codes do not spill over what moves": _spilled,
    "no task loses far more than the others": _worse,
    "lengths are within what codes can say": _beyond,
    "few steps are lost at the ends of episodes": _short,
    "something moves": _still,
    "more than one code is used": _static,
}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
