"""The scripts evaluate and make_report: adapters by path, the table from what is stored."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from configs.checks import check
from configs.choices import STUDY, Control, Mode, Subset, Weights
from configs.schema import ExperimentConfig
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import SUITE_OF, parse_subset, parse_tasks, tasks_text
from data_pipeline.sim.assets import check_objects
from experiment import compose
from experiment.cli import typed_command
from experiment.data_stages import Data, expert_views, shipped_node
from experiment.full import check_none_given, full_checkpoint
from experiment.places import Places, evaluate_view
from experiment.plan import FULL, Result, Run, control_node, evaluate_node, full_node, replay_node
from experiment.resolve import find_source, named_source
from experiment.settings import choice_of, data_workers, places_of, prepare, short
from experiment.stages import StageNode, stored_node
from experiment.store import Store
from experiment.study import EVALUATIONS, Choice, Study, published_results, run_study
from experiment.tables import GROUP_MARK, belongs, table_group, table_title
from experiment.views import Marker, View, ViewState, markers, state
from training.base_folder import TINY_BASES, folder_digest
from training.card import CARD_FILE, AdapterCard, check_weights, load_card
from training.shipped_base import SHIPPED

CHECKPOINT = "checkpoint-final"
"""Folder of an adapter, below that of its training."""


def evaluate(values: Namespace) -> int:
    """Roll out the adapter at `--lora_path`, or a control; its row joins the table."""
    subset, places = parse_subset(values.libero_subset, tuple(Subset)), places_of(values)
    control = next((control for control in Control if control.value == values.model_type), None)
    if values.model_type == FULL:
        wanted = _full(values, subset)
    else:
        check_none_given(values)
        _check_type(values.model_type)
        wanted = _control(values, subset, control, places) if control else _adapter(values, subset, places)
    config, group = wanted.run.config, table_group(wanted.title, wanted.node)
    check_objects(config.env, subset, wanted.run.tasks)
    study = Study(
        places=places,
        targets=(wanted.node,),
        views=(evaluate_view(places, wanted.node, group), *wanted.views),
        results=(Result(wanted.node.spec.slug, wanted.node, wanted.train),),
        group=_table_of(Store(places.store), group),
        title=wanted.title,
        preset=config.preset,
        phase_order=tuple(compose.phase_files()),
        decisions=wanted.said,
    )
    return run_study(study, choice_of(values, config)).code


def _check_type(text: str) -> None:
    """Raise ConfigError where `--model_type` is neither a phase nor a control."""
    phases = compose.phase_files() | compose.ablations()
    others = (*Control, FULL)
    check(
        text in (*phases, *others) or Path(text).suffix in (".yaml", ".yml"),
        f"--model_type {text!r}; allowed: a phase ({', '.join(compose.phase_files())}, one of configs/ablations/, or a "
        f"phase's YAML file), or {', '.join(others)}",
    )


@dataclass(frozen=True)
class _Wanted:
    """An evaluation that was asked for."""

    run: Run
    node: StageNode
    title: str
    said: tuple[str, ...]
    train: StageNode | None = None  # of the adapter, where it is known
    views: tuple[View, ...] = ()  # besides its own


def _adapter(values: Namespace, subset: Subset, places: Places) -> _Wanted:
    """The adapter at `--lora_path`. Its own demonstrations are not looked for: they have done their work."""
    check(
        bool(values.lora_path),
        f"--lora_path is needed: the adapter that was trained as {values.model_type!r}, e.g. "
        f"{places.output_dir / values.model_type / subset.value / CHECKPOINT}",
    )
    store, phase = Store(places.store), compose.find_phase(values.model_type)
    card = _card(Path(values.lora_path), subset)
    adapter = find_adapter(store, Path(values.lora_path))
    trained_as, trained_on = card.phase.name, card.subset
    prepared = prepare(phase, values, _table_subsets(subset), find=named_source)
    config, sources = prepared.resolved.config, prepared.resolved.sources
    check(
        trained_as == config.phase.name,
        f"--model_type {config.phase.name!r}, but this adapter was trained as {trained_as!r}: give that",
    )
    check(
        subset in (trained_on, Subset.NINETY),
        f"--libero_subset {subset.value}, but this adapter was trained on {trained_on.value}: give that, or 90",
    )
    merged = Weights.MERGED.value if card.weights is Weights.MERGED else ""  # its adapter may have a row of its own
    elsewhere = "" if subset == trained_on else f"from_{trained_on.value}"
    tasks, apart = _tasks(values.tasks, config, subset)
    on_base = card.weights is Weights.ADAPTER and config.model.base in TINY_BASES
    base = _base_of(store, adapter, card) if on_base else None
    run_ = Run(
        config,
        subset,
        sources,
        _joined(_variant_of(store, adapter, Path(values.lora_path)), merged, elsewhere, apart),
        tasks=tasks,
    )
    train = adapter if adapter.stage == "train" else None
    return _Wanted(run_, evaluate_node(run_, adapter, base), table_title(config, sources), prepared.said, train)


def _control(values: Namespace, subset: Subset, control: Control, places: Places) -> _Wanted:
    """A policy that is not trained, under the settings that the phases share."""
    name = control.value
    check(not values.lora_path, f"{name} is a control and has no adapter; leave --lora_path out")
    replays = control is Control.REPLAY
    check(not replays or subset in STUDY, f"replay needs demonstrations, and {SUITE_OF[subset]} has none here")
    first_phase = next(iter(compose.phase_files().values()))
    find = find_source if replays else named_source
    prepared = prepare(first_phase, values, _table_subsets(subset), find=find)
    config, sources = prepared.resolved.config, prepared.resolved.sources
    check(Mode.NO_THINK in config.eval.modes, f"{name} is a control and cannot think; leave --mode out")
    tasks, apart = _tasks(values.tasks, config, subset)
    run_ = Run(config, subset, sources, apart, tasks=tasks)
    workers = data_workers(values, config, len(sources))
    node = replay_node(run_, places, workers) if replays else control_node(run_, control)
    views = tuple(expert_views(Data(config, sources, places, workers))) if replays else ()
    return _Wanted(run_, node, table_title(config, sources), prepared.said, views=views)


def _full(values: Namespace, subset: Subset) -> _Wanted:
    """A model that was trained elsewhere, in a table of its own."""
    first_phase = next(iter(compose.phase_files().values()))
    prepared = prepare(first_phase, values, _table_subsets(subset), find=named_source)
    config, sources = prepared.resolved.config, prepared.resolved.sources
    checkpoint, called, said = full_checkpoint(values, config, subset)
    tasks, apart = _tasks(values.tasks, config, subset)
    run_ = Run(config, subset, sources, _joined(called, apart), tasks=tasks)
    title = table_title(replace(config, model=replace(config.model, base=checkpoint.name)), sources)
    return _Wanted(run_, full_node(run_, checkpoint), title, (*prepared.said, *said))


def _table_subsets(subset: Subset) -> tuple[Subset, ...]:
    """Whose demonstrations the table's title names: libero_90 has none, so that it goes by the study's."""
    return (subset,) if subset in STUDY else STUDY


def _tasks(text: str | None, config: ExperimentConfig, subset: Subset) -> tuple[tuple[int, ...], str]:
    """`--tasks`, and what keeps a row over some tasks apart from one over all of them."""
    every = config.data.tasks.of(subset)
    if text is None:
        return every, ""
    chosen = parse_tasks(text, every)
    return chosen, "" if chosen == every else f"tasks{short(tasks_text(chosen).replace(',', '_'))}"


def _joined(*parts: str) -> str:
    return "+".join(filter(None, parts))


def _table_of(store: Store, group: str) -> str:
    """The group of the table that a row joins: the last one shown, where the row fits, or its own."""
    last = _last_report(store)
    return last.group if last is not None and belongs(group, last.group) else group


def find_adapter(store: Store, path: Path) -> StageNode:
    """A published checkpoint as its store entry; any other folder, or one changed since, by content."""
    for folder, marker in markers(store):
        if marker.stage != "train" or folder / CHECKPOINT != path.resolve():
            continue
        node, manifest = stored_node("train", marker.slug, marker.key), store.whole("train", marker.key)
        if manifest is not None and state(store, View(node, folder), manifest) is ViewState.CURRENT:
            return node
    key, _ = store.import_path(path.resolve(), CHECKPOINT, path.name)
    return stored_node("file", path.name, key)


def _variant_of(store: Store, adapter: StageNode, path: Path) -> str:
    """What keeps this adapter's folders apart: `prob0.3` of text_cot@prob0.3/object, `step5` of a checkpoint-5."""
    trained = {folder: marker.slug for folder, marker in markers(store) if marker.stage == "train"}
    row, _, _ = trained.get(path.resolve().parent, adapter.spec.slug).partition("/")
    step = path.name.removeprefix("checkpoint-")
    return _joined(row.partition("@")[2], f"step{step}" if step.isdigit() else "")


def _card(path: Path, subset: Subset) -> AdapterCard:
    """The card of the adapter at `--lora_path`. Raises ConfigError where that is no adapter's folder."""
    train = f"train one first, e.g. `python scripts/train_baseline.py --subset {subset.value}`"
    check(path.exists(), f"--lora_path {path} does not exist; {train}")
    check(path.is_dir(), f"--lora_path {path} is a file; give the adapter's folder, {path.parent}")
    check(
        (path / CARD_FILE).is_file(),
        f"--lora_path {path} has no {CARD_FILE}, so this is no adapter of this project; {train}",
    )
    card = load_card(path)
    check_weights(path, card)
    return card


def _base_of(store: Store, adapter: StageNode, card: AdapterCard) -> StageNode:
    """The tiny backbone of an adapter: the one it was trained on, or the one its card names by digest."""
    manifest = store.whole(adapter.stage, adapter.key)
    if manifest is not None and "base" in manifest.inputs:
        return stored_node(manifest.inputs["base"]["stage"], "", manifest.inputs["base"]["key"])
    if folder_digest(SHIPPED) == card.base_digest:
        return shipped_node()
    for _, candidate in store.manifests("base"):
        if folder_digest(store.entry("base", candidate.key) / "base") == card.base_digest:
            return stored_node("base", "", candidate.key)
    raise EnvironmentProblem(
        f"this adapter was trained on the base {card.base!r}, which is not in {store.root}; run its training here "
        "again, or evaluate it with the --output_dir it was trained in"
    )


def _last_report(store: Store) -> Marker | None:
    """What is published as the table."""
    return next((marker for _, marker in markers(store) if marker.stage == "report"), None)


def make_report(values: Namespace) -> int:
    """The table over every published evaluation of the last table's kind."""
    places = places_of(values)
    store = Store(places.store)
    last = _last_report(store)
    groups = [m.group for _, m in markers(store) if m.stage in EVALUATIONS]
    check(
        bool(groups),
        f"no evaluations in {places.output_dir}; run `python scripts/run_experiment.py --all-phases --all-subsets`",
    )
    group = last.group if last is not None else groups[-1]
    results = tuple(published_results(store, group))
    built = store.whole("report", last.key) if last is not None else None
    title = group.rpartition(GROUP_MARK)[0]
    preset = str(built.config["preset"]) if built is not None else ""
    study = Study(
        places=places,
        targets=(),
        views=(),
        results=results,
        group=group,
        title=title,
        preset=preset,
        phase_order=tuple(compose.phase_files()),
    )
    return run_study(study, Choice(force=("report",), dry_run=values.dry_run, command=typed_command())).code
