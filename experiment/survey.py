"""Which stages of a graph are finished, and why the others must run."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from experiment.stages import STAGES, StageNode
from experiment.store import Damaged, Manifest, Store
from experiment.views import View, ViewState, state


class Todo(Enum):
    """What a run will do with a stage."""

    CACHED = "cached"
    PARTIAL = "partial"  # to run, from unfinished work
    RUN = "to run"


@dataclass(frozen=True)
class Finding:
    """The state of one stage. `manifest` where it is cached; `redo` where a valid entry is thrown away."""

    todo: Todo
    why: str = ""
    manifest: Manifest | None = None
    redo: bool = False
    reopen: bool = False  # `redo` from its own outputs, of which most are kept
    is_cause: bool = False  # the reason is this stage's own, and worth telling


def survey(
    store: Store,
    nodes: Sequence[StageNode],
    views: Iterable[View],
    forced: Collection[str] = (),
    reopened: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Finding]:
    """Key -> finding for topologically ordered nodes. `forced`: keys to redo; `reopened`: to go on with, and why."""
    by_key: dict[str, list[View]] = {}
    for view in views:
        by_key.setdefault(view.node.key, []).append(view)
    history = {stage: store.manifests(stage) for stage in {node.stage for node in nodes}}
    found: dict[str, Finding] = {}
    for node in nodes:
        finding = _examine(store, node, by_key.get(node.key, []), forced, found, history[node.stage])
        if finding.todo is Todo.CACHED and node.key in reopened:
            finding = Finding(Todo.PARTIAL, reopened[node.key], redo=True, reopen=True, is_cause=True)
        found[node.key] = finding
    return found


def _examine(
    store: Store,
    node: StageNode,
    views: Sequence[View],
    forced: Collection[str],
    found: Mapping[str, Finding],
    history: Sequence[tuple[float, Manifest]],
) -> Finding:
    try:
        manifest = store.manifest(node.stage, node.key)
    except Damaged as damage:
        return Finding(_todo(store, node), f"{damage}; it will be set aside", is_cause=True)
    if manifest is None:
        reason, is_cause = _first_difference(node, history)
        return Finding(_todo(store, node), reason, is_cause=is_cause)
    reason = _changed_input(node, manifest, found)
    if reason:
        return Finding(Todo.RUN, reason, redo=True)
    reason = _asked_again(store, node, manifest, views, forced)
    if reason:
        return Finding(Todo.RUN, reason, redo=True, is_cause=True)
    return Finding(Todo.CACHED, manifest=manifest)


def _todo(store: Store, node: StageNode) -> Todo:
    return Todo.PARTIAL if store.is_partial(node.key) else Todo.RUN


def _asked_again(
    store: Store, node: StageNode, manifest: Manifest, views: Sequence[View], forced: Collection[str]
) -> str:
    if node.key in forced:
        return "asked for"
    deleted = [v for v in views if v.redo and state(store, v, manifest) is ViewState.DELETED]
    return f"{deleted[0].folder} was deleted" if deleted else ""


def _changed_input(node: StageNode, manifest: Manifest, found: Mapping[str, Finding]) -> str:
    for name, needed in sorted(node.inputs.items()):
        current = found[needed.key].manifest
        if current is None:
            return f"its input {needed.label} runs again"
        if manifest.inputs[name]["output"] != current.output:
            return f"its input {needed.label} has another content now"
    return ""


def _first_difference(node: StageNode, history: Sequence[tuple[float, Manifest]]) -> tuple[str, bool]:
    """(the first key field that differs from the newest entry of the same stage and slug, whether it is a cause)."""
    newest = next((m for _, m in history if m.slug == node.spec.slug), None)
    if newest is None:
        return "never built here", False
    if newest.version != node.spec.version:
        return f"the stage's version is {node.spec.version}, not {newest.version}", True
    old, new = flatten(newest.config), flatten(node.spec.key_config)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name}: {_brief(old.get(name))} -> {_brief(new.get(name))}", True
    for name, ref in sorted(node.spec.inputs.items()):
        if newest.inputs.get(name, {}).get("key") != ref.key:
            return f"another input {name}", False
    return "its entry was deleted", True


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists are leaves."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}{name}."))
        else:
            flat[f"{path}{name}"] = value
    return flat


def expected_seconds(store: Store, nodes: Iterable[StageNode]) -> dict[str, float]:
    """Key -> expected duration: of the same stage and slug, else of the stage, else the table's figure."""
    wanted = list(nodes)
    history = {stage: store.manifests(stage) for stage in {node.stage for node in wanted}}
    return {node.key: _expected(node, [m for _, m in history[node.stage]]) for node in wanted}


def _expected(node: StageNode, earlier: Sequence[Manifest]) -> float:
    same = [m.seconds for m in earlier if m.slug == node.spec.slug]
    if same:
        return same[0]
    if earlier:
        return statistics.median(m.seconds for m in earlier)
    return STAGES[node.stage].typical_s if node.stage in STAGES else 1.0
