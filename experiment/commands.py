"""What each script does: its flags, and the stages they ask for."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.schema import ConfigError, ExperimentConfig, Subset, canonical, check
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import SUITE_OF, parse_subset
from experiment import compose
from experiment.cli import COMMANDS, Parser, typed_command
from experiment.plan import (
    GROUP_MARK,
    Data,
    Places,
    Result,
    Run,
    demos_view,
    evaluate_node,
    evaluate_view,
    table_group,
    table_title,
    train_node,
    train_view,
)
from experiment.resolve import (
    EXPERT,
    OFFICIAL,
    TINY_BASE,
    DataSource,
    Resolved,
    made_by_expert,
    needed_subsets,
    resolve,
    resolve_preset,
)
from experiment.stages import StageNode, make_node, stored_node
from experiment.store import Store, file_sha256
from experiment.study import Choice, Done, Study, published_results, run_study
from experiment.survey import flatten
from experiment.views import View, markers, replace_file

NO_PAID_CALLS = (
    "note: reasoning is written by the rules annotator in this version; the API key is not used or stored, and no paid "
    "call is made"
)
FLAG_KEYS = {
    "lora_rank": "lora.rank",
    "learning_rate": "optimizer.learning_rate",
    "max_train_steps": "max_train_steps",
    "reasoning_dropout_prob": "reasoning_dropout.prob",
    "cot_loss_weight": "reasoning_dropout.cot_loss_weight",
    "num_trials": "eval.num_trials",
    "protocol": "eval.protocol",
    "episodes_per_task": "data.demos_per_task",
    "image_resolution": "env.resolution",
    "backend": "flow.backend",
}
"""Flags that are another spelling of a configuration key."""

_NOT_IN_VARIANT = ("preset", "eval", "executor", "trainer", "phase")


def run(command: str, argv: Sequence[str], phase: str = "") -> int:
    """Parse a command's flags and do it. Returns the exit code. Raises ConfigError, EnvironmentProblem."""
    parser = Parser(
        prog=f"scripts/{f'{command}_{phase}' if phase else command}.py",
        description=f"{COMMANDS[command]}. Further settings: key=value, e.g. preset=tiny lora.rank=8.",
        allow_abbrev=False,
    )
    add_flags, act = _ACTIONS[command]
    add_flags(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of configs/, see configs/schema.py")
    values = parser.parse(argv)
    if phase:
        values.phase = phase
    return act(values)


# ------------------------------------------------------------------ flags


def _places_flags(parser: Parser) -> None:
    parser.flag("data_dir", default="./data", help="demonstrations: libero_<subset>/*.hdf5")
    parser.flag("output_dir", default="./outputs", help="store, adapters, results")
    parser.flag("dry_run", action="store_true", help="say what would run, and why")
    parser.flag("num_workers", type=int, default=1, help="processes inside a stage")


def _subset_flag(parser: Parser) -> None:
    parser.flag("subset", help="spatial, object, goal, long (libero_10 is long)")


def _run_flags(parser: Parser) -> None:
    parser.flag("phase", help="a phase of configs/, or the path of a phase's YAML file")
    _subset_flag(parser)
    parser.flag("all-phases", action="store_true")
    parser.flag("all-subsets", action="store_true")
    parser.flag("seeds", help="training seeds, e.g. 0,1,2")
    parser.flag("name", default="", help="names this variant's folders; default: from the changed settings")
    parser.flag("only", default="", help="stages to bring up to date, with what they need: annotate,tokens")
    parser.flag("from", default="", help="redo this stage and everything after it")
    parser.flag("force", default="", help="redo these stages (and what depends on them)")
    parser.flag("num_trials", help="episodes per task")
    parser.flag("mode", choices=("no_think", "think", "both"))
    _llm_flags(parser)
    _places_flags(parser)


def _llm_flags(parser: Parser) -> None:
    for name in ("llm-model", "llm-base-url", "model", "base-url", "max-usd", "concurrency"):
        parser.flag(name, help="of the language-model annotator; without effect on the rules annotator")


def _demos_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("episodes_per_task")
    parser.flag("image_resolution")
    _places_flags(parser)


def _regenerate_flags(parser: Parser) -> None:
    parser.flag("libero_task_suite", required=True, help=", ".join(SUITE_OF.values()))
    parser.flag("libero_raw_data_dir", required=True)
    parser.flag("libero_target_dir", required=True)
    parser.flag("image_resolution")
    _places_flags(parser)


def _ecot_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("output", help="also write the annotations here")
    _llm_flags(parser)
    _places_flags(parser)


def _flow_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("output", help="also write the tokens here")
    parser.flag("backend", choices=("auto", "sim", "raft", "dis_chain"))
    _places_flags(parser)


def _train_flags(parser: Parser) -> None:
    parser.flag("phase", help="a phase of configs/, or the path of a phase's YAML file")
    _subset_flag(parser)
    parser.flag("name", default="")
    for name in ("lora_rank", "learning_rate", "max_train_steps", "reasoning_dropout_prob", "cot_loss_weight"):
        parser.flag(name)
    parser.flag("ecot_annotations", help="a file of scripts/generate_ecot.py instead of the stage's own")
    parser.flag("flow_tokens", help="a file of scripts/preprocess_flow.py instead of the stage's own")
    _places_flags(parser)


def _evaluate_flags(parser: Parser) -> None:
    parser.flag("model_type", required=True, help="the phase of the adapter")
    parser.flag("libero_subset", required=True)
    parser.flag("lora_path", required=True, help="an adapter, e.g. outputs/<phase>/<subset>/checkpoint-final")
    parser.flag("num_trials")
    parser.flag("mode", choices=("no_think", "think", "both"))
    parser.flag("protocol", choices=("standard", "nora"))
    _places_flags(parser)


# ------------------------------------------------------------------ from flags to a configuration


def _overrides(values: Namespace) -> tuple[str, list[str], list[str]]:
    """(preset, sentences to print, overrides without the preset). Raises ConfigError where a flag contradicts."""
    given = dict(compose.override_value(text) for text in values.overrides)
    overrides = [text for text in values.overrides if not text.startswith("preset=")]
    flags = {key: getattr(values, flag, None) for flag, key in FLAG_KEYS.items()}
    mode = getattr(values, "mode", None)
    if mode:
        flags["eval.modes"] = "[no_think,think]" if mode == "both" else f"[{mode}]"
    for key, text in flags.items():
        if text is None:
            continue
        _, value = compose.override_value(f"{key}={text}")
        if key in given and not _same(given[key], value):
            raise ConfigError(f"a flag says {key}={value!r} and an override says {key}={given[key]!r}; keep one")
        if key not in given:
            overrides.append(f"{key}={text}")
    preset, said = resolve_preset(str(given.get("preset", "auto")))
    return preset, [said] if said else [], overrides


def _same(a: Any, b: Any) -> bool:
    """Equal, also `5e-5` (text to YAML 1.1) and 0.00005."""
    try:
        return a == b or float(a) == float(b)
    except (TypeError, ValueError):
        return False


def _places(values: Namespace) -> Places:
    return Places(Path(values.output_dir).expanduser().absolute(), Path(values.data_dir).expanduser().absolute())


def _choice(values: Namespace, config: ExperimentConfig) -> Choice:
    names = [name for name in getattr(values, "force", "").split(",") if name]
    start = getattr(values, "from", "")
    only = tuple(name for name in getattr(values, "only", "").split(",") if name)
    return Choice(
        only=only,
        force=(*names, *([start] if start else [])),
        dry_run=values.dry_run,
        cores=config.executor.cores,
        retries=config.executor.retries,
        command=typed_command(),
    )


def _required_subset(values: Namespace) -> Subset:
    check(bool(values.subset), f"--subset is needed; allowed: {', '.join(s.value for s in Subset)}")
    return parse_subset(values.subset)


@dataclass(frozen=True)
class Prepared:
    """A resolved configuration with what to say about it and what keeps its folders apart."""

    resolved: Resolved
    said: tuple[str, ...]
    variant: str


def _prepare(phase: Path, values: Namespace, subsets: Sequence[Subset], extra: Sequence[str] = ()) -> Prepared:
    preset, said, overrides = _overrides(values)
    config = compose.compose(phase, [f"preset={preset}", *overrides, *extra])
    wanted = needed_subsets(config, subsets)
    places = _places(values)
    resolved = resolve(config, wanted, places.data_dir)
    changed = bool(overrides or extra)
    plain = compose.compose(phase, [f"preset={preset}"]) if changed else config
    name = getattr(values, "name", "") or variant(resolved.config, _like(resolved.config, plain))
    return Prepared(resolved, (*said, *resolved.decisions), name)


def _like(config: ExperimentConfig, plain: ExperimentConfig) -> ExperimentConfig:
    """The plain configuration, its `auto` values read as this run resolved them."""
    env = replace(plain.env, assets=config.env.assets) if plain.env.assets == "auto" else plain.env
    data = replace(plain.data, source=config.data.source) if plain.data.source == "auto" else plain.data
    flow = replace(plain.flow, backend=config.flow.backend) if plain.flow.backend == "auto" else plain.flow
    return replace(plain, env=env, data=data, flow=flow)


def variant(config: ExperimentConfig, plain: ExperimentConfig) -> str:
    """Names what differs from the phase's and preset's own settings and can change an adapter: `prob0.3+rank8`."""
    old, new = flatten(canonical(plain)), flatten(canonical(config))
    changed = [key for key in new if new[key] != old.get(key) and key.partition(".")[0] not in _NOT_IN_VARIANT]
    return "+".join(f"{key.rpartition('.')[2]}{_short(new[key])}" for key in sorted(changed))


def _short(value: Any) -> str:
    text = str(value)
    if text and len(text) <= 16 and all(c.isalnum() or c in "._-" for c in text):
        return text
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:6]


# ------------------------------------------------------------------ run_experiment, train


def _experiment(values: Namespace) -> int:
    check(bool(values.phase) != values.all_phases, "give --phase NAME or --all-phases (one of them)")
    check(bool(values.subset) != values.all_subsets, "give --subset NAME or --all-subsets (one of them)")
    phases = list(compose.phase_files().values()) if values.all_phases else [compose.find_phase(values.phase)]
    subsets = list(Subset) if values.all_subsets else [parse_subset(values.subset)]
    seeds = [f"seed={int(text)}" for text in values.seeds.split(",")] if values.seeds else [""]
    places = _places(values)
    runs: list[Run] = []
    said: dict[str, None] = {}
    for phase in phases:
        for seed in seeds:
            prepared = _prepare(phase, values, subsets, [seed] if seed else [])
            said.update(dict.fromkeys(prepared.said))
            config, sources = prepared.resolved.config, prepared.resolved.sources
            runs += [Run(config, subset, sources, prepared.variant) for subset in subsets]
    study = _study(runs, places, values.num_workers, tuple(said))
    return run_study(study, _choice(values, runs[0].config)).code


def _study(runs: Sequence[Run], places: Places, workers: int, said: tuple[str, ...]) -> Study:
    """Adapters, evaluations and everything they need; the report is added when the store is known."""
    config, sources = runs[0].config, runs[0].sources
    title = table_title(config, sources)
    results: list[Result] = []
    views: list[View] = []
    group = ""
    for run in runs:
        train = train_node(run, places, workers)
        evaluate = evaluate_node(run, train, train.inputs.get("base"))
        results.append(Result(run.slug, evaluate, train))
        group = table_group(title, evaluate)
        views += [train_view(places, train), evaluate_view(places, evaluate, group)]
    views += _expert_views(Data(config, sources, places, workers))
    return Study(
        places=places,
        targets=tuple(result.evaluate for result in results),
        views=tuple(views),
        results=tuple(results),
        group=group,
        title=title,
        preset=config.preset,
        phase_order=tuple(compose.phase_files()),
        decisions=said,
    )


def _expert_views(data: Data) -> list[View]:
    expert = [subset for subset, source in data.sources.items() if source.kind == EXPERT]
    return [demos_view(data.places, data.demos(subset), subset) for subset in expert]


def _train(values: Namespace) -> int:
    check(bool(values.phase), "give --phase NAME")
    subset, places = _required_subset(values), _places(values)
    prepared = _prepare(compose.find_phase(values.phase), values, [subset])
    config, sources = prepared.resolved.config, prepared.resolved.sources
    data = Data(config, sources, places, values.num_workers)
    given = {
        "annotate": (values.ecot_annotations, "annotations.json", data.annotate(subset)),
        "tokens": (values.flow_tokens, "flow_tokens.json", data.tokens(subset)),
    }
    substitutes = {
        name: _user_file(Store(places.store), Path(path), inside, own)
        for name, (path, inside, own) in given.items()
        if path
    }
    run_ = Run(config, subset, sources, prepared.variant, substitutes)
    node = train_node(run_, places, values.num_workers)
    study = Study(
        places, (node,), (train_view(places, node), *_expert_views(data)), title=node.label, decisions=prepared.said
    )
    done = run_study(study, _choice(values, config))
    if done.code == 0 and not values.dry_run:
        print(f"adapter: {places.output_dir / run_.slug / 'checkpoint-final'}")
    return done.code


def _user_file(store: Store, path: Path, inside: str, own: StageNode) -> StageNode:
    """A file given by the user as an input; the project's own stage where that made exactly these bytes."""
    if not path.is_file():
        script = {"annotate": "generate_ecot", "tokens": "preprocess_flow"}[own.stage]
        raise ConfigError(
            f"{path} does not exist; make it with `python scripts/{script}.py --subset {own.spec.slug} --output {path}`"
        )
    made = store.whole(own.stage, own.key)
    if made is not None and made.files[inside]["sha256"] == file_sha256(path):
        return own
    key, _ = store.import_path(path, inside, path.name)
    return stored_node("file", path.name, key)


# ------------------------------------------------------------------ single stages


def _data_for(values: Namespace, subset: Subset) -> tuple[Data, Prepared]:
    """Data stages of one subset. They are the same for every phase: any phase file serves."""
    phase = next(iter(compose.phase_files().values()))
    preset, said, overrides = _overrides(values)
    config = compose.compose(phase, [f"preset={preset}", *overrides])
    places = _places(values)
    resolved = resolve(config, [subset], places.data_dir)
    data = Data(resolved.config, resolved.sources, places, values.num_workers)
    return data, Prepared(resolved, (*said, *resolved.decisions), "")


def _run_one(data: Data, prepared: Prepared, node: StageNode, views: Sequence[View], values: Namespace) -> Done:
    study = Study(data.places, (node,), tuple(views), title=node.label, decisions=prepared.said)
    return run_study(study, _choice(values, data.config))


def _demos(values: Namespace) -> int:
    values.overrides = [*values.overrides, f"data.source={EXPERT}"]
    subset = _required_subset(values)
    data, prepared = _data_for(values, subset)
    view = demos_view(data.places, data.demos(subset), subset)
    done = _run_one(data, prepared, view.node, [view], values)
    if done.code == 0 and not values.dry_run:
        print(f"demonstrations: {view.folder}")
    return done.code


def _regenerate(values: Namespace) -> int:
    suite = values.libero_task_suite
    check(suite in SUITE_OF.values(), f"--libero_task_suite {suite!r}; allowed: {', '.join(SUITE_OF.values())}")
    subset = parse_subset(suite)
    raw = _raw_folder(Path(values.libero_raw_data_dir), subset)
    expert = made_by_expert(raw)
    values.overrides = [*values.overrides, f"data.source={EXPERT}"]  # so that nothing else is looked for
    data, prepared = _data_for(values, subset)
    data = replace(data, sources={subset: DataSource(OFFICIAL, raw)}) if not expert else data
    demos = _stored_demos(data, raw) or data.demos(subset)
    node = replace_input(data.regenerate(subset), "demos", demos)
    origin = EXPERT if expert else OFFICIAL
    note = f'{{"stage":"regenerate","demonstrations":"{origin}"}}'
    target = Path(values.libero_target_dir).absolute()
    done = _run_one(data, prepared, node, [View(node, target, redo=False, note=note)], values)
    if done.code == 0 and not values.dry_run:
        print(f"regenerated demonstrations: {target}")
    return done.code


def replace_input(node: StageNode, name: str, new: StageNode) -> StageNode:
    """The same stage on another input."""
    return make_node(
        node.stage, node.spec.slug, node.spec.build_config(), {**node.inputs, name: new}, worker=node.worker
    )


def _stored_demos(data: Data, raw: Path) -> StageNode | None:
    """The stage whose published output a folder is, so that the store's own entry is used."""
    store = Store(data.places.store)
    for folder, marker in markers(store):
        if folder == raw.resolve() and store.whole(marker.stage, marker.key) is not None:
            return stored_node(marker.stage, marker.slug, marker.key)
    return None


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


def _ecot(values: Namespace) -> int:
    subset = _required_subset(values)
    data, prepared = _data_for(values, subset)
    return _sidecar(values, data, prepared, data.annotate(subset), "annotations.json")


def _flow(values: Namespace) -> int:
    subset = _required_subset(values)
    data, prepared = _data_for(values, subset)
    return _sidecar(values, data, prepared, data.tokens(subset), "flow_tokens.json")


def _sidecar(values: Namespace, data: Data, prepared: Prepared, node: StageNode, inside: str) -> int:
    """Build a stage and put a copy of its file where the user wants it."""
    done = _run_one(data, prepared, node, _expert_views(data), values)
    if done.code == 0 and not values.dry_run:
        source = data.places.store / node.stage / node.key / inside
        target = Path(values.output) if values.output else source
        if values.output:
            replace_file(source, target)
        print(f"wrote {target}")
    return done.code


# ------------------------------------------------------------------ evaluate, make_report


def _evaluate(values: Namespace) -> int:
    subset, places = parse_subset(values.libero_subset), _places(values)
    store = Store(places.store)
    adapter = _adapter(store, Path(values.lora_path), subset)
    prepared = _prepare(compose.find_phase(values.model_type), values, [subset])
    config, sources = prepared.resolved.config, prepared.resolved.sources
    base = _base_of(store, adapter) if config.model.base == TINY_BASE else None
    run_ = Run(config, subset, sources)
    node = evaluate_node(run_, adapter, base)
    title = table_title(config, sources)
    group = table_group(title, node)
    result = Result(run_.slug, node, adapter if adapter.stage == "train" else None)
    study = Study(
        places=places,
        targets=(node,),
        views=(evaluate_view(places, node, group),),
        results=(result,),
        group=group,
        title=title,
        preset=config.preset,
        phase_order=tuple(compose.phase_files()),
        decisions=prepared.said,
    )
    return run_study(study, _choice(values, config)).code


def _adapter(store: Store, path: Path, subset: Subset) -> StageNode:
    """A published checkpoint as its store entry; any other folder by content."""
    if not path.is_dir():
        raise ConfigError(
            f"--lora_path {path} does not exist; train it first, e.g. `python scripts/train_baseline.py --subset "
            f"{subset.value}`"
        )
    for folder, marker in markers(store):
        shown = folder / "checkpoint-final" == path.resolve()
        if marker.stage == "train" and shown and store.whole("train", marker.key) is not None:
            return stored_node("train", marker.slug, marker.key)
    key, _ = store.import_path(path.resolve(), "checkpoint-final", path.name)
    return stored_node("file", path.name, key)


def _base_of(store: Store, adapter: StageNode) -> StageNode:
    """The tiny backbone of an adapter: the one it was trained on, or the one its card names by digest."""
    manifest = store.whole(adapter.stage, adapter.key)
    if manifest is not None and "base" in manifest.inputs:
        return stored_node("base", "", manifest.inputs["base"]["key"])
    card = json.loads((store.entry(adapter.stage, adapter.key) / "checkpoint-final" / "adapter_card.json").read_text())
    from training.lora_model import folder_digest  # torch: only for adapters from elsewhere

    for _, candidate in store.manifests("base"):
        if folder_digest(store.entry("base", candidate.key) / "base") == card["base_digest"]:
            return stored_node("base", "", candidate.key)
    raise EnvironmentProblem(
        f"this adapter was trained on the base {card['base']!r}, which is not in {store.root}; run its training here "
        "again, or evaluate it with the --output_dir it was trained in"
    )


def _report(values: Namespace) -> int:
    places = _places(values)
    store = Store(places.store)
    last = next((m for folder, m in markers(store) if m.stage == "report" and folder == places.results.resolve()), None)
    groups = [m.group for _, m in markers(store) if m.stage == "evaluate"]
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


_ACTIONS: dict[str, tuple[Callable[[Parser], None], Callable[[Namespace], int]]] = {
    "run_experiment": (_run_flags, _experiment),
    "generate_demos": (_demos_flags, _demos),
    "regenerate_libero": (_regenerate_flags, _regenerate),
    "generate_ecot": (_ecot_flags, _ecot),
    "preprocess_flow": (_flow_flags, _flow),
    "train": (_train_flags, _train),
    "evaluate": (_evaluate_flags, _evaluate),
    "make_report": (_places_flags, _report),
}
