"""What may be wrong with flow and its tokens: tallies per task -> findings, each with the value and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from operator import add

from data_pipeline.findings import Check, Finding
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
    checks = [Check(name, tuple(find(tallies))) for name, find in _CHECKS.items()]
    name = "tokens decode to what their manifest says"
    if stated_epe_moving is None:
        return (*checks, Check(name, (), "it does not say"))
    return (*checks, Check(name, tuple(_as_stated(total(tallies).epe_moving, stated_epe_moving))))


def _no_better(tallies: Tallies) -> Iterator[Finding]:
    where = [
        f"{task}: {t.epe_moving:.2f} px, no motion {t.zero_moving:.2f} px"
        for task, t in tallies.items()
        if t.moving and t.epe_moving > NO_BETTER * t.zero_moving
    ]
    yield from _one(
        f"Tokens are no better than predicting no motion in {_tasks(where)}",
        where,
        "More flow.cells, or another flow.tokenizer; where lengths are near flow.static_px, a lower one.",
    )


def _spilled(tallies: Tallies) -> Iterator[Finding]:
    where = [
        f"{task}: {t.epe_all:.2f} px, no motion {t.zero_all:.2f} px"
        for task, t in tallies.items()
        if t.epe_all > t.zero_all
    ]
    yield from _one(
        f"Over all cells, tokens are worse than predicting no motion in {_tasks(where)}",
        where,
        "Each code covers more than what moves there, and spills over its edges: more flow.cells.",
    )


def _worse(tallies: Tallies) -> Iterator[Finding]:
    lost = {task: t.epe_moving / t.zero_moving for task, t in tallies.items() if t.moving}
    mean = sum(lost.values()) / max(len(lost), 1)
    where = [f"{task}: {share:.0%}, mean {mean:.0%}" for task, share in lost.items() if share > ALARM_RATIO * mean]
    yield from _one(
        f"Tokens lose {ALARM_RATIO:g} times the mean share of the motion, or more, in {_tasks(where)}",
        where,
        "It moves unlike the others: see its pictures below. A fitted tokenizer must have seen such motion.",
    )


def _beyond(tallies: Tallies) -> Iterator[Finding]:
    where = [
        f"{task}: {_percent(t.beyond, t.moving)} of the moving cells"
        for task, t in tallies.items()
        if t.beyond > BEYOND_SHARE * t.moving
    ]
    yield from _one(
        f"Motion is longer than the tokenizer can say in {_tasks(where)}",
        where,
        "Its direction is kept, its length is cut. A shorter action.horizon shortens the flow.",
    )


def _short(tallies: Tallies) -> Iterator[Finding]:
    where = [
        f"{task}: {_percent(t.short, t.steps)} of the steps"
        for task, t in tallies.items()
        if t.short > SHORT_SHARE * t.steps
    ]
    yield from _one(
        f"Many steps look less than half the horizon ahead and have no flow tokens in {_tasks(where)}",
        where,
        "Episodes are short beside the horizon: a shorter action.horizon, or longer demonstrations.",
    )


def _still(tallies: Tallies) -> Iterator[Finding]:
    where = [
        f"{task}: {_percent(t.still, t.steps - t.short)} of the steps"
        for task, t in tallies.items()
        if t.still > STILL_SHARE * (t.steps - t.short)
    ]
    yield from _one(
        f"Nothing moves in most steps of {_tasks(where)}",
        where,
        "Either the demonstrations stand still (`nora-ecot inspect` shows their no-ops) or the backend sees nothing: "
        "compare another flow.backend. flow.static_px decides what moves.",
    )


def _static(tallies: Tallies) -> Iterator[Finding]:
    codes = total(tallies).codes
    if codes.max() > STATIC_SHARE * codes.sum():
        yield Finding(
            f"One code is {_percent(int(codes.max()), int(codes.sum()))} of all codes",
            (f"code {codes.argmax()}; {int((codes > 0).sum())} of {len(codes)} are used",),
            "There is nearly nothing to predict: a lower flow.static_px, more flow.cells, or a longer action.horizon.",
        )


def _as_stated(found: float, stated: float) -> Iterator[Finding]:
    if abs(found - stated) > DIFFERENT_PX:
        yield Finding(
            "Tokens do not decode to what their manifest says",
            (f"moving error {found:.3f} px, manifest {stated:.3f} px",),
            "They were made of other flow or by another version: make them again with scripts/preprocess_flow.py.",
        )


_CHECKS: dict[str, Callable[[Tallies], Iterator[Finding]]] = {
    "tokens tell more than no motion": _no_better,
    "codes do not spill over what moves": _spilled,
    "no task loses far more than the others": _worse,
    "lengths are within what codes can say": _beyond,
    "few steps are lost at the ends of episodes": _short,
    "something moves": _still,
    "more than one code is used": _static,
}


def _one(says: str, where: list[str], remedy: str) -> Iterator[Finding]:
    if where:
        yield Finding(says, tuple(where), remedy)


def _tasks(where: list[str]) -> str:
    return f"{len(where)} task{'' if len(where) == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
