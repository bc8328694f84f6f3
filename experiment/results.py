"""The scripts evaluate and make_report: adapters by path, the table from what is stored."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import ConfigError, Subset, check
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import parse_subset
from experiment import compose
from experiment.cli import typed_command
from experiment.plan import GROUP_MARK, Result, Run, evaluate_node, evaluate_view, table_group, table_title
from experiment.resolve import TINY_BASE
from experiment.settings import choice_of, places_of, prepare
from experiment.stages import StageNode, stored_node
from experiment.store import Store
from experiment.study import EVALUATIONS, Choice, Study, published_results, run_study
from experiment.views import View, ViewState, markers, state


def evaluate(values: Namespace) -> int:
    """Roll out the adapter at `--lora_path`; its row joins the table."""
    subset, places = parse_subset(values.libero_subset), places_of(values)
    store = Store(places.store)
    adapter = find_adapter(store, Path(values.lora_path), subset)
    prepared = prepare(compose.find_phase(values.model_type), values, [subset])
    config, sources = prepared.resolved.config, prepared.resolved.sources
    card = _card(store, adapter)
    trained = card["phase"]["name"]
    check(
        trained == config.phase.name,
        f"--model_type {config.phase.name!r}, but this adapter was trained as {trained!r}: give that",
    )
    check(
        card["subset"] == subset.value,
        f"--libero_subset {subset.value}, but this adapter was trained on {card['subset']}: give that",
    )
    base = _base_of(store, adapter, card) if config.model.base == TINY_BASE else None
    run_ = Run(config, subset, sources, _variant_of(adapter))
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
    return run_study(study, choice_of(values, config)).code


def find_adapter(store: Store, path: Path, subset: Subset) -> StageNode:
    """A published checkpoint as its store entry; any other folder, or one changed since, by content."""
    if not path.is_dir():
        raise ConfigError(
            f"--lora_path {path} does not exist; train it first, e.g. `python scripts/train_baseline.py --subset "
            f"{subset.value}`"
        )
    for folder, marker in markers(store):
        if marker.stage != "train" or folder / "checkpoint-final" != path.resolve():
            continue
        node, manifest = stored_node("train", marker.slug, marker.key), store.whole("train", marker.key)
        if manifest is not None and state(store, View(node, folder), manifest) is ViewState.CURRENT:
            return node
    key, _ = store.import_path(path.resolve(), "checkpoint-final", path.name)
    return stored_node("file", path.name, key)


def _variant_of(adapter: StageNode) -> str:
    """What keeps this adapter's folders apart: `prob0.3` of text_cot@prob0.3/object."""
    return adapter.spec.slug.partition("/")[0].partition("@")[2]


def _card(store: Store, adapter: StageNode) -> dict[str, Any]:
    path = store.entry(adapter.stage, adapter.key) / "checkpoint-final" / "adapter_card.json"
    if not path.is_file():
        raise ConfigError(f"--lora_path: no {path.name} beside the weights, so this is no adapter of this project")
    return json.loads(path.read_text(encoding="utf-8"))


def _base_of(store: Store, adapter: StageNode, card: Mapping[str, Any]) -> StageNode:
    """The tiny backbone of an adapter: the one it was trained on, or the one its card names by digest."""
    manifest = store.whole(adapter.stage, adapter.key)
    if manifest is not None and "base" in manifest.inputs:
        return stored_node("base", "", manifest.inputs["base"]["key"])
    from training.lora_model import folder_digest  # torch: only for adapters from elsewhere

    for _, candidate in store.manifests("base"):
        if folder_digest(store.entry("base", candidate.key) / "base") == card["base_digest"]:
            return stored_node("base", "", candidate.key)
    raise EnvironmentProblem(
        f"this adapter was trained on the base {card['base']!r}, which is not in {store.root}; run its training here "
        "again, or evaluate it with the --output_dir it was trained in"
    )


def make_report(values: Namespace) -> int:
    """The table over every published evaluation of the last table's kind."""
    places = places_of(values)
    store = Store(places.store)
    last = next((m for folder, m in markers(store) if m.stage == "report" and folder == places.results.resolve()), None)
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
