"""`nora-ecot inspect`: a page and a contact sheet per subset, of the study's demonstrations or of any folder."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.checks import ConfigError, check
from configs.choices import STUDY, Subset
from configs.schema import ExperimentConfig
from data_pipeline.libero_utils import SUITE_OF, parse_subset
from data_pipeline.whole_files import write_text
from experiment import compose, inspecting_flow, inspecting_reasoning
from experiment.data_stages import Data, expert_views
from experiment.datasets import data_for
from experiment.files import environment_errors
from experiment.resolve import EXPERT, made_by_expert
from experiment.settings import choice_of, places_of, read_overrides
from experiment.store import Store
from experiment.study import Study, run_study

if TYPE_CHECKING:
    from data_pipeline.action_stats import ActionStatistics
    from data_pipeline.data_splitter import Split
    from data_pipeline.inspection import Inspection, Known
    from data_pipeline.metainfo import Metainfo
    from experiment.stages import StageNode

# What reads HDF5 and draws is imported where it is used: `--help` and `--dry-run` answer at once.


def inspect(values: Namespace) -> int:
    """Write inspect_<subset>.html and .png. The study's data stages are brought up to date first, statistics last."""
    check(not (values.subset and values.all_subsets), "give --subset NAME or --all-subsets, not both")
    check(not (values.annotations and values.flow), "give --annotations or --flow, not both")
    check(
        values.annotations or values.flow or values.demos is None,
        "--demos says how many --annotations or --flow films; add one of them",
    )
    check(values.flow or not values.flow_tokens, "--flow_tokens is shown by --flow; add that")
    check(values.annotations or not values.vocabulary, "--vocabulary counts for --annotations; add that")
    if values.annotations:
        return inspecting_reasoning.inspect_annotations(values)
    if values.flow:
        return inspecting_flow.inspect_flow(values)
    check(not (values.data and values.all_subsets), "--data is a folder of one subset; leave --all-subsets out")
    check(
        not (values.data and values.dry_run),
        "--dry-run says which stages would run, and with --data FOLDER none does; leave one of them out",
    )
    if values.data:
        return _inspect_given(values, Path(values.data))
    check(bool(values.subset) or values.all_subsets, "give --subset NAME, --all-subsets or --data FOLDER")
    subsets = STUDY if values.all_subsets else (parse_subset(values.subset),)
    data, prepared = data_for(values, *subsets)
    targets = tuple(data.stats(subset) for subset in subsets)
    study = Study(data.places, targets, tuple(expert_views(data)), title="inspect", decisions=prepared.said)
    done = run_study(study, choice_of(values, data.config))
    if values.dry_run:
        return done.code
    for subset in subsets:
        if data.regenerate(subset).key in done.manifests:
            known = _known_of_study(data, subset)
            _write(entry_of(data, data.regenerate(subset)), subset, known, _output(values))
    return done.code


def _output(values: Namespace) -> Path:
    return Path(values.output) if values.output else places_of(values).output_dir / "inspect"


# ------------------------------------------------------------------ the study's own demonstrations


def entry_of(data: Data, node: StageNode) -> Path:
    """Where the store has (or would have) a stage's output."""
    return Store(data.places.store).entry(node.stage, node.key)


def _known_of_study(data: Data, subset: Subset) -> Known:
    from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
    from data_pipeline.data_splitter import SPLIT_FILE, load_split
    from data_pipeline.inspection import Known

    source = data.sources[subset]
    nodes = (data.demos(subset), data.regenerate(subset), data.split(subset), data.stats(subset))
    demos, regenerated, split, stats = (entry_of(data, node) for node in nodes)
    author = "The scripted expert" if source.kind == EXPERT else f"LIBERO's own, from {source.folder}"
    return Known(
        origin=f"{author}; {'already replayed and filtered there' if source.clean else 'replayed and filtered'}.",
        split=load_split(split / SPLIT_FILE) if split.is_dir() else None,
        statistics=ActionStatistics.load(stats / STATISTICS_FILE) if stats.is_dir() else None,
        metainfo=_metainfo(source.folder if source.clean and source.folder else regenerated, subset),
        attempts=_json(demos / "demos.json"),
        remarks=tuple(
            f"Stage {node.label}: {node.key}{'' if entry_of(data, node).is_dir() else ', without output'}"
            for node in {node.key: node for node in nodes}.values()
        ),
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _metainfo(folder: Path, subset: Subset) -> Metainfo:
    """The regeneration's verdicts, {} where there are none; OpenVLA's file of the same name says too little."""
    from data_pipeline.metainfo import metainfo_name, read_metainfo

    path = folder / metainfo_name(subset)
    with contextlib.suppress(TypeError):
        return read_metainfo(path) if path.is_file() else {}
    return {}


# ------------------------------------------------------------------ any folder


def _inspect_given(values: Namespace, folder: Path) -> int:
    found = subset_of(folder)
    subset = parse_subset(values.subset) if values.subset else found
    check(subset is found, f"--subset {subset.value}, but {folder} has demonstrations of {found.value}")
    _write(folder, subset, _known_of_folder(values, folder, subset), _output(values))
    return 0


def subset_of(folder: Path) -> Subset:
    """The subset of a folder's first file. Raises ConfigError where there is none, or of none of the four."""
    from data_pipeline.hdf5_reading import task_of_file

    if not folder.is_dir():
        raise ConfigError(f"--data {folder} does not exist; without --data the study's own demonstrations are shown")
    first = min(folder.glob("*.hdf5"), default=None)
    if first is None:
        inside = sorted(str(path) for path in folder.iterdir() if any(path.glob("*.hdf5")))
        hint = (
            f"did you mean {' or '.join(inside)}?" if inside else "`nora-ecot generate_demos --subset NAME` makes some"
        )
        raise ConfigError(f"--data {folder} has no demonstrations (*.hdf5); {hint}")
    for subset in STUDY:
        with contextlib.suppress(ConfigError):
            task_of_file(first, subset)
            return subset
    suites = ", ".join(SUITE_OF[subset] for subset in STUDY)
    raise ConfigError(f"{first} is of no task of {suites}; call it <task name>_demo.hdf5")


def settings_of(values: Namespace) -> ExperimentConfig:
    """The settings of the command line; says what was chosen."""
    preset, said, overrides = read_overrides(values)
    config = compose.compose(next(iter(compose.phase_files().values())), [f"preset={preset}", *overrides])
    for sentence in said:
        print(sentence)
    return config


def split_as_staged(config: ExperimentConfig, folder: Path, subset: Subset) -> Split:
    """As the stage would divide this folder."""
    from data_pipeline.data_splitter import split_episodes
    from data_pipeline.raw_loader import Hdf5Source

    return split_episodes(Hdf5Source(folder, subset).list(), config.data.test_fraction, config.data.seed)


def statistics_as_staged(config: ExperimentConfig, folder: Path, subset: Subset, split: Split) -> ActionStatistics:
    """As the stage would, of the training demonstrations. Raises ConfigError where a dimension stands still."""
    from data_pipeline.action_stats import pooled_statistics
    from data_pipeline.raw_loader import Hdf5Source

    training = map(Hdf5Source(folder, subset).open, split.train)
    return pooled_statistics(SUITE_OF[subset], training, config.action.half_range_floor, config.action.normalization)


def _known_of_folder(values: Namespace, folder: Path, subset: Subset) -> Known:
    """Split and statistics as the stages would make them of this folder, with the settings of the command line."""
    from data_pipeline.inspection import Known

    config = settings_of(values)
    split = split_as_staged(config, folder, subset)
    remarks = [
        f"Split and statistics: made for this page with data.test_fraction={config.data.test_fraction:g}, "
        f"data.seed={config.data.seed}, action.half_range_floor={config.action.half_range_floor:g}"
    ]
    statistics = None
    try:
        statistics = statistics_as_staged(config, folder, subset, split)
    except ConfigError as problem:  # the page is there to show such data
        remarks.append(f"No statistics: {problem}")
    return Known(
        origin=f"{'The scripted expert, in' if made_by_expert(folder) else 'Demonstrations in'} {folder}.",
        split=split,
        statistics=statistics,
        metainfo=_metainfo(folder, subset),
        attempts=_json(folder / "demos.json"),
        remarks=tuple(remarks),
    )


# ------------------------------------------------------------------ writing


def _write(folder: Path, subset: Subset, known: Known, output: Path) -> None:
    from data_pipeline.contact_sheet import write_sheet
    from data_pipeline.findings import listed
    from data_pipeline.inspection import inspect_folder
    from data_pipeline.inspection_checks import run_checks
    from data_pipeline.inspection_page import render_page
    from data_pipeline.raw_loader import Hdf5Source

    inspection = inspect_folder(Hdf5Source(folder, subset), known)
    outcomes = run_checks(inspection)
    page, sheet = (output / f"inspect_{subset.value}{suffix}" for suffix in (".html", ".png"))
    with environment_errors():
        output.mkdir(parents=True, exist_ok=True)
        write_text(page, render_page(inspection, outcomes))
        write_sheet(sheet, inspection)
    print(_summary(inspection))
    for finding in (finding for outcome in outcomes for finding in outcome.findings):
        print(f"  warning: {finding.says}: {listed(finding.where)}")
    print(f"  page: {page}\n  contact sheet: {sheet}")


def _summary(inspection: Inspection) -> str:
    from data_pipeline.inspection_page import duration

    demos, tasks = len(inspection.demos), len(inspection.tasks)
    name, steps = inspection.subset.value, inspection.num_steps
    return f"{name}: {demos} demonstrations of {tasks} tasks, {steps} steps, {duration(steps)}"
