"""Runs a study: survey, dry run, execution, publishing, the summary at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from configs.checks import check
from configs.choices import Subset
from experiment import rewording
from experiment.executors import LocalExecutor, Outcome
from experiment.flow_cost import flow_costs
from experiment.places import Places, report_view
from experiment.plan import Result, report_node
from experiment.progress import Display, display, seconds_text, times_text
from experiment.secret import Secret
from experiment.stages import STAGES, StageNode, stored_node, topological
from experiment.store import Manifest, Store
from experiment.survey import Finding, Todo, expected_seconds, survey
from experiment.tables import belongs
from experiment.token_report import token_lines
from experiment.views import View, ViewState, markers, publish, state

EXIT_INCOMPLETE = 3
RETRY_ERRORS = "--retry-errors"
EVALUATIONS = ("evaluate", "replay", "control", "full")  # stages whose output is a row of the table


@dataclass(frozen=True)
class Choice:
    """What the command line says about which stages run, and how."""

    only: tuple[str, ...] = ()  # stage names: build these and what they need
    force: tuple[str, ...] = ()  # stage names: redo these (and what depends on them)
    retry_errors: bool = False  # run the episodes again that ended in an error of the simulator
    dry_run: bool = False
    cores: int = 0  # 0: all
    retries: int = 2
    devices: tuple[str, ...] = ()  # CUDA devices for stages with models; () on the CPU
    command: str = ""  # as typed, for the resume hint
    secret: Secret = Secret()  # for stages that call services

    def __post_init__(self) -> None:
        for name in (*self.only, *self.force):
            check(name in STAGES, f"unknown stage {name!r}; allowed: {', '.join(STAGES)}")


@dataclass(frozen=True)
class Study:
    """What is wanted."""

    places: Places
    targets: tuple[StageNode, ...]
    views: tuple[View, ...]
    results: tuple[Result, ...] = ()  # of the evaluations in targets; not empty: a report is wanted
    group: str = ""
    title: str = ""
    preset: str = ""
    phase_order: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()


@dataclass
class Done:
    """What a run leaves: finished stages and the exit code."""

    code: int
    manifests: dict[str, Manifest] = field(default_factory=dict[str, Manifest])
    ran: list[StageNode] = field(default_factory=list[StageNode])


def run_study(study: Study, choice: Choice) -> Done:
    """Bring every target up to date and publish the views. Prints as it goes."""
    for decision in study.decisions:
        print(decision)
    store = Store(study.places.store)
    study = with_report(study, store, study.results)
    nodes, views = _select(study, choice)
    forced = {node.key for node in nodes if node.stage in choice.force}
    found = survey(store, nodes, views, forced, _to_retry(store, nodes) if choice.retry_errors else {})
    if choice.dry_run:
        _print_dry_run(store, nodes, found)
        return Done(0)
    store.prepare()
    with display() as shown:
        shown.line(_headline(nodes, found, study))
        for line in rewording.expectations(store, nodes, cached_keys(found)):
            shown.line(line)
        outcome = _execute(store, nodes, views, found, choice, shown)
        if study.results and outcome.failures and not outcome.interrupted and not choice.only:
            _report_what_there_is(study, store, choice, shown)
    return _finish(study, store, nodes, found, outcome, choice)


def with_report(study: Study, store: Store, results: Sequence[Result]) -> Study:
    """Add the report over these results and over what earlier runs published in the same output directory."""
    if not results:
        return study
    wanted = {result.slug for result in (*results, *study.results)}  # one that failed now is no earlier run's row
    earlier = published_results(store, study.group, wanted)
    rows = sorted([*results, *earlier], key=lambda result: table_place(result.slug, study.phase_order))
    report = report_node(rows, study.title, study.preset)
    view = report_view(study.places, report, study.group)
    return replace(study, targets=(*study.targets, report), views=(*study.views, view))


def published_results(store: Store, group: str, without: Collection[str] = ()) -> list[Result]:
    """Evaluations that earlier runs published and that are still whole and still shown."""
    found: list[Result] = []
    for folder, marker in markers(store):
        if marker.stage not in EVALUATIONS or marker.slug in without or not folder.is_dir():
            continue
        if not belongs(marker.group, group):
            continue
        manifest = store.whole(marker.stage, marker.key)
        if manifest is None:
            continue
        adapter = manifest.inputs.get("adapter", {"stage": "", "key": ""})
        trained = adapter["stage"] == "train" and store.whole("train", adapter["key"]) is not None
        train = stored_node("train", marker.slug, adapter["key"]) if trained else None
        found.append(Result(marker.slug, stored_node(marker.stage, marker.slug, marker.key), train))
    return found


def table_place(slug: str, phase_order: Sequence[str]) -> tuple[int, str, int, str]:
    """Rows in the order of the phases, variants after the phase itself, subsets as LIBERO lists them, plain first."""
    row, _, evaluated = slug.partition("/")
    subset, _, perturbed = evaluated.partition("@")
    phase = row.partition("@")[0]
    subsets = [s.value for s in Subset]
    known = phase_order.index(phase) if phase in phase_order else len(phase_order)
    return known, row, subsets.index(subset) if subset in subsets else len(subsets), perturbed


def _select(study: Study, choice: Choice) -> tuple[list[StageNode], list[View]]:
    """The stages to look at, inputs first, and the views of those."""
    nodes = topological(study.targets)
    if choice.only:
        nodes = topological(node for node in nodes if node.stage in choice.only)
    keys = {node.key for node in nodes}
    return nodes, [view for view in study.views if view.node.key in keys]


def _execute(
    store: Store,
    nodes: Sequence[StageNode],
    views: Sequence[View],
    found: dict[str, Finding],
    choice: Choice,
    shown: Display,
) -> Outcome:
    """Publish what is cached, run the rest, publish each stage as it ends."""

    def finished(node: StageNode) -> None:
        _publish(store, views, node)
        for line in rewording.expectations_after(store, node, to_run):
            shown.line(line)

    to_run = [node for node in nodes if found[node.key].todo is not Todo.CACHED]
    for node in nodes:
        if found[node.key].reopen:
            store.reopen(node.stage, node.key)
        elif found[node.key].redo:
            store.discard(node.stage, node.key)
        elif found[node.key].todo is Todo.CACHED:
            _publish(store, views, node)
    lost = [node.label for node in to_run if node.is_stored]
    check(not lost, f"{', '.join(lost)}: the store's entry is gone; run its own command again")
    for node in to_run:
        if found[node.key].is_cause:
            shown.line(f"  {node.label}: {found[node.key].why}")
    if not to_run:
        return Outcome()
    executor = LocalExecutor(
        store, choice.cores or usable_cores(), choice.retries, shown, choice.devices, choice.secret
    )
    return executor.run(to_run, expected_seconds(store, to_run), finished)


def _publish(store: Store, views: Sequence[View], node: StageNode) -> None:
    """Show a finished stage wherever it belongs."""
    manifest = store.whole(node.stage, node.key)
    if manifest is None:  # another run has thrown it away
        return
    for view in views:
        if view.node.key == node.key and state(store, view, manifest) is not ViewState.CURRENT:
            publish(store, view, manifest)


def cached_keys(found: Mapping[str, Finding]) -> set[str]:
    """Keys of finished stages."""
    return {key for key, finding in found.items() if finding.todo is Todo.CACHED}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report_what_there_is(study: Study, store: Store, choice: Choice, shown: Display) -> None:
    """After failures: the table over the evaluations that are finished; the missing cells show dashes."""
    finished = [r for r in study.results if store.whole(r.evaluate.stage, r.evaluate.key) is not None]
    partial = with_report(replace(study, targets=(), views=()), store, finished)
    if partial.targets:
        nodes = topological(partial.targets)
        found = survey(store, nodes, partial.views)
        _execute(store, nodes, partial.views, found, choice, shown)


def _headline(nodes: Sequence[StageNode], found: dict[str, Finding], study: Study) -> str:
    to_run = [node for node in nodes if found[node.key].todo is not Todo.CACHED]
    return f"{len(nodes)} stages: {len(nodes) - len(to_run)} finished before, {len(to_run)} to run; {study.title}"


def _print_dry_run(store: Store, nodes: Sequence[StageNode], found: dict[str, Finding]) -> None:
    expected = expected_seconds(store, nodes)
    width = max(len(node.label) for node in nodes)
    for node in nodes:
        finding = found[node.key]
        print(f"{finding.todo.value:<8} {node.label:<{width}}  {finding.why}".rstrip())
    to_run = [node for node in nodes if found[node.key].todo is not Todo.CACHED]
    work_s = sum(expected[node.key] for node in to_run)
    print(f"{len(to_run)} of {len(nodes)} stages to run, about {seconds_text(work_s)} of one core; nothing was run")
    for line in flow_costs(store, nodes, cached_keys(found)):
        print(line)
    print("\n".join(rewording.expectations(store, nodes, cached_keys(found))) or "LLM calls: 0")


def _finish(
    study: Study,
    store: Store,
    nodes: Sequence[StageNode],
    found: dict[str, Finding],
    outcome: Outcome,
    choice: Choice,
) -> Done:
    by_key = {node.key: node for node in nodes}
    ran = [by_key[key] for key in outcome.seconds]
    manifests = {node.key: m for node in nodes if (m := store.whole(node.stage, node.key)) is not None}
    if ran:
        print(f"time per stage (together {seconds_text(outcome.wall_s)}):")
        print("\n".join(times_text({by_key[key].label: seconds for key, seconds in outcome.seconds.items()})))
        for node in ran:
            if node.stage == rewording.STAGE:
                print("\n".join(rewording.report(store, node)))
        print("\n".join([*token_lines(ran, manifests), ""]), end="")
    elif not outcome.failures and not outcome.interrupted:
        print("nothing to do: every stage is finished")
    code = outcome.exit_code()
    for failure in outcome.failures:
        print(f"failed: {failure.node.label}: {failure.message}")
    if outcome.blocked:
        print(f"not run, because of that: {', '.join(node.label for node in outcome.blocked)}")
    if outcome.interrupted:
        print(f"interrupted; resume with: {choice.command}")
    elif study.results:
        errors = sum(error_rows(store, result.evaluate) for result in study.results if result.evaluate.key in manifests)
        if errors:
            print(
                f"incomplete: {errors} episodes ended in simulator errors and count for nobody; run just these again:"
            )
            print(f"  {choice.command}{'' if choice.retry_errors else f' {RETRY_ERRORS}'}")
        code = code or (EXIT_INCOMPLETE if errors else 0)
        print_table(study.places)
    return Done(code, manifests, ran)


def _to_retry(store: Store, nodes: Sequence[StageNode]) -> dict[str, str]:
    """Key -> what there is to do again, of finished evaluations with error rows."""
    finished = [n for n in nodes if n.stage in EVALUATIONS and not n.is_stored and store.whole(n.stage, n.key)]
    errors = {node.key: error_rows(store, node) for node in finished}
    return {key: f"{count} episodes ended in simulator errors" for key, count in errors.items() if count}


def error_rows(store: Store, evaluate: StageNode) -> int:
    """Episodes of an evaluation that ended in an error of the simulator."""
    path = store.entry(evaluate.stage, evaluate.key) / "summary.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["errors"])


def print_table(places: Places) -> None:
    """The published table with its conditions, and where the rest is."""
    path = places.results / "results.md"
    if path.is_file():
        print(path.read_text(encoding="utf-8").partition("\nAdapters:")[0].rstrip())
        print(f"results: {path} (also .csv and .html)")
