"""The scripts that make data: demonstrations, regeneration, annotations, flow tokens."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.checks import check
from configs.choices import Subset
from data_pipeline import demo_outcomes
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import SUITE_OF, parse_subset
from data_pipeline.metainfo import metainfo_name, read_metainfo, table
from experiment import compose
from experiment.data_stages import Data, expert_views
from experiment.flags import REGENERATED_PX
from experiment.given_flow import FLOW_TOKENS
from experiment.places import demos_view
from experiment.resolve import (
    EXPERT,
    OFFICIAL,
    DataSource,
    NeededSubsets,
    asked_subsets,
    find_source,
    flow_subsets,
    made_by_expert,
    resolve,
)
from experiment.rewording import permission
from experiment.settings import (
    Prepared,
    check_model_flags,
    choice_of,
    data_workers,
    places_of,
    read_overrides,
    required_subset,
)
from experiment.stages import StageNode, make_node, stored_node
from experiment.store import COPY_BYTES, Store
from experiment.study import Done, Study, run_study
from experiment.views import NOTE_FILE, View, ViewState, read_marker, replace_file, state


def data_for(values: Namespace, *subsets: Subset, needed: NeededSubsets = asked_subsets) -> tuple[Data, Prepared]:
    """Data stages of some subsets. They are the same for every phase: any phase file serves."""
    phase = next(iter(compose.phase_files().values()))
    preset, said, overrides = read_overrides(values)
    config = compose.compose(phase, [f"preset={preset}", *overrides])
    places = places_of(values)
    resolved = resolve(config, needed(config, subsets), places.data_dir, find_source)
    data = Data(resolved.config, resolved.sources, places, data_workers(values, resolved.config, len(resolved.sources)))
    return data, Prepared(resolved, (*said, *resolved.decisions), "")


def _run_one(data: Data, prepared: Prepared, node: StageNode, views: Sequence[View], values: Namespace) -> Done:
    study = Study(data.places, (node,), tuple(views), title=node.label, decisions=prepared.said)
    return run_study(study, choice_of(values, data.config))


def generate_demos(values: Namespace) -> int:
    """Expert demonstrations of one subset, published in `<data_dir>/libero_<subset>_expert`."""
    subset = required_subset(values)
    _only_source(values, EXPERT, "generate_demos makes the scripted expert's demonstrations")
    data, prepared = data_for(values, subset)
    view = demos_view(data.places, data.demos(subset), subset)
    done = _run_one(data, prepared, view.node, [view], values)
    if not values.dry_run:
        _print_demos(Store(data.places.store), view.node, done)
    if done.code == 0 and not values.dry_run:
        print(f"demonstrations: {view.folder}")
    return done.code


def _print_demos(store: Store, node: StageNode, done: Done) -> None:
    """The table of a demos stage, finished now or before, or ended because of a task that cannot be done."""
    manifest = done.manifests.get(node.key)
    path = (store.entry(node.stage, node.key) if manifest else store.work(node.key)) / "demos.json"
    if path.is_file():
        remarks = manifest.remarks if manifest else {}
        print("\n".join(demo_outcomes.table(json.loads(path.read_text(encoding="utf-8")), remarks)))


def regenerate_libero(values: Namespace) -> int:
    """Replayed demonstrations of one suite, published in `--libero_target_dir`."""
    subset = parse_subset(values.libero_task_suite)
    raw = _raw_folder(Path(values.libero_raw_data_dir).absolute(), subset)
    target = Path(values.libero_target_dir).absolute()
    _check_target(Store(places_of(values).store), raw, target)
    origin = EXPERT if made_by_expert(raw) else OFFICIAL
    if values.image_resolution is None and not _is_set(values, "env.resolution"):
        values.image_resolution = str(REGENERATED_PX)
    _only_source(values, origin, f"--libero_raw_data_dir says what is replayed, and {raw} is {origin}")
    data, prepared = data_for(values, subset)
    chosen = _is_set(values, "data.tasks")
    demos = None if chosen else _stored_demos(data, raw)
    node = replace_input(data.regenerate(subset), "demos", demos or _demos_in(data, subset, raw, every_task=not chosen))
    env = data.config.env
    drawn = f"drawing: {env.resolution} px, {env.look.value} look, {env.assets} assets (preset {data.config.preset})"
    prepared = replace(prepared, said=(*prepared.said, drawn))
    note = f'{{"stage":"regenerate","demonstrations":"{origin}"}}'
    done = _run_one(data, prepared, node, [View(node, target, redo=False, note=note)], values)
    if done.code == 0 and not values.dry_run:
        print(table(read_metainfo(target / metainfo_name(subset))))
        print(f"regenerated demonstrations: {target}")
    return done.code


def _check_target(store: Store, raw: Path, target: Path) -> None:
    """Raise ConfigError where publishing would replace the input, or demonstrations that nothing here made."""
    remedy = "name another --libero_target_dir, e.g. "
    check(
        raw.resolve() != target.resolve(),
        f"--libero_target_dir {target} is the folder that is read, {raw}; {remedy}{raw.with_name(raw.name + '_clean')}",
    )
    others = min(target.glob("*.hdf5"), default=None)
    ours = others is None or (target / NOTE_FILE).is_file() or read_marker(store, target) is not None
    check(
        ours,
        f"--libero_target_dir {target} holds demonstrations that this project did not write ({others}), and what is "
        f"made of {raw} would replace them; move them away, or {remedy}{target.with_name(target.name + '_clean')}",
    )


def _only_source(values: Namespace, allowed: str, why: str) -> None:
    """Raise ConfigError where `data.source` says another; then set the expert, so that nothing else is looked for."""
    given = dict(compose.override_value(text) for text in values.overrides).get("data.source", "auto")
    check(given in ("auto", allowed), f"data.source={given} contradicts this command: {why}; leave data.source out")
    values.overrides = [*values.overrides, f"data.source={EXPERT}"]


def _is_set(values: Namespace, key: str) -> bool:
    return any(override.startswith((f"{key}=", f"{key}.")) for override in values.overrides)


def _demos_in(data: Data, subset: Subset, raw: Path, *, every_task: bool) -> StageNode:
    """The files of a folder as they are: of every task that it holds, or of the configured ones."""
    from data_pipeline.hdf5_reading import task_files  # h5py and scipy: only where files are read

    tasks = replace(data.config.data.tasks, **{subset.value: tuple(task_files(raw, subset))})
    config = replace(data.config, data=replace(data.config.data, tasks=tasks)) if every_task else data.config
    return replace(data, config=config, sources={subset: DataSource(OFFICIAL, raw)}).demos(subset)


def replace_input(node: StageNode, name: str, new: StageNode) -> StageNode:
    """The same stage on another input."""
    return make_node(
        node.stage, node.spec.slug, node.spec.build_config(), {**node.inputs, name: new}, worker=node.worker
    )


def _stored_demos(data: Data, raw: Path) -> StageNode | None:
    """The stage whose published output a folder still is, so that the store's own entry is used."""
    store = Store(data.places.store)
    marker = read_marker(store, raw)
    manifest = store.whole(marker.stage, marker.key) if marker else None
    if marker is None or manifest is None:
        return None
    node = stored_node(marker.stage, marker.slug, marker.key)
    return node if state(store, View(node, raw), manifest) is ViewState.CURRENT else None


def _raw_folder(wanted: Path, subset: Subset) -> Path:
    """The folder named, or beside it the expert's. Raises EnvironmentProblem with both remedies."""
    beside = [wanted.with_name(f"libero_{subset.value}"), wanted.with_name(f"libero_{subset.value}_expert")]
    for folder in (wanted, *beside):
        if any(folder.glob("*.hdf5")):
            if folder != wanted:
                print(f"{wanted} has no *.hdf5; using {folder}")
            return folder
    raise EnvironmentProblem(
        f"{wanted} has no demonstrations (*.hdf5). Download {SUITE_OF[subset]} there, or make some with `python "
        f"scripts/generate_demos.py --subset {subset.value}`, which writes {beside[1]}"
    )


def generate_ecot(values: Namespace) -> int:
    """Annotations of one subset, copied to `--output`."""
    subset = required_subset(values)
    data, prepared = data_for(values, subset)
    check_model_flags(values, data.config)
    if data.config.annotator.kind == "llm":
        prepared = replace(prepared, said=(*prepared.said, permission(values, data.config)))
    return _sidecar(values, data, prepared, data.reasoning(subset), "annotations.json")


def preprocess_flow(values: Namespace) -> int:
    """Flow tokens of one subset, copied to `--output`, with their .npz and their tokenizer beside it."""
    subset = required_subset(values)
    data, prepared = data_for(values, subset, needed=flow_subsets)
    return _sidecar(values, data, prepared, data.tokens(subset), *FLOW_TOKENS)


def _sidecar(values: Namespace, data: Data, prepared: Prepared, node: StageNode, *inside: str) -> int:
    """Build a stage and put copies of its files where the user wants them: the first under `--output`'s name."""
    done = _run_one(data, prepared, node, expert_views(data), values)
    if done.code == 0 and not values.dry_run:
        folder = data.places.store / node.stage / node.key
        target = Path(values.output) if values.output else folder / inside[0]
        for name in inside if values.output else ():
            beside = target if name == inside[0] else target.with_suffix(Path(name).suffix)
            replace_file(folder / name, beside, copy_below=COPY_BYTES)  # people edit annotations
        print(f"wrote {target}")
    return done.code
