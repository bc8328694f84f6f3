"""`nora-ecot doctor --oracle`: do recorded actions survive the way from tokens to the simulator? Exit 1 if not."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.checks import check, in_range
from configs.choices import STUDY, Subset
from configs.schema import ExperimentConfig
from data_pipeline.libero_utils import MAX_STEPS, parse_subset
from experiment.data_stages import expert_views
from experiment.datasets import data_for
from experiment.flags import Parser
from experiment.inspecting import entry_of, settings_of, split_as_staged, statistics_as_staged, subset_of
from experiment.resolve import named_source, resolve
from experiment.settings import choice_of, places_of
from experiment.study import Study, run_study
from training.base_folder import SCRATCH, TINY, TINY_BASES, folder_digest
from training.shipped_base import BASE_FOLDER, BASE_STATISTICS, SHIPPED, ShippedBase

if TYPE_CHECKING:
    import numpy as np

    from data_pipeline.action_stats import ActionStatistics
    from data_pipeline.contract import Episode, EpisodeId
    from data_pipeline.data_splitter import Split
    from evaluation.oracle import Examination, Row
    from evaluation.oracle_faults import Fault
    from evaluation.oracle_path import ActionPath
    from training.action_tokenizer import FastTokenizer

# What reads HDF5, fits tokenizers and starts simulators is imported where it is used: `--help` answers at once.

EXIT_FOUND = 1
DEMOS_PER_TASK = 3
NAMED = 5  # lost demonstrations, per line
HEADER = ("subset", "chunk", "demos", "raw", "oracle", "rate", "position", "rotation", "gripper", "tokens")


@dataclass(frozen=True)
class Demonstrations:
    """One subset's regenerated demonstrations and what the data stages made of them."""

    subset: Subset
    folder: Path
    split: Split
    statistics: ActionStatistics


def main(argv: Sequence[str]) -> int:
    """Parse, examine every subset asked for, print. Raises ConfigError, EnvironmentProblem."""
    parser = Parser(
        prog="nora-ecot doctor --oracle",
        description="recorded actions through the deployed path. Further settings: key=value, e.g. preset=tiny.",
        allow_abbrev=False,
    )
    oracle_flags(parser)
    values = parser.parse(argv)
    in_range("--demos", values.demos, 1)
    check(
        not (values.data and values.dry_run),
        "--dry-run says which data stages would run, and with --data FOLDER none does; leave one of them out",
    )
    asked = (parse_subset(values.subset),) if values.subset else ()
    if values.data:
        config, found = _given(values, Path(values.data))
        check(set(asked) <= {found[0].subset}, f"--subset {values.subset}, but {values.data} has {found[0].subset}")
    else:
        config, found = _of_study(values, asked or _of_adapter(values) or STUDY)
    if not found:  # a dry run, or a stage that failed and has said so
        return 0 if values.dry_run else EXIT_FOUND
    wanted = asked or _of_adapter(values) or tuple(d.subset for d in found)
    return _examine(values, config, found, wanted)


def oracle_flags(parser: Parser) -> None:
    """What `doctor --oracle` takes."""
    parser.flag("oracle", action="store_true", help="this check")
    parser.flag("subset", help="spatial, object, goal, long; default: the adapter's, or all")
    parser.flag("adapter", help="a checkpoint folder to check; default: what training would use")
    parser.flag("data", help="a folder of regenerated demonstrations (*.hdf5), instead of the study's own")
    parser.flag("demos", type=int, default=DEMOS_PER_TASK, help=f"per task, at most; default {DEMOS_PER_TASK}")
    parser.flag("data_dir", default="./data", help="demonstrations: libero_<subset>/*.hdf5")
    parser.flag("output_dir", default="./outputs", help="the store")
    parser.flag("num_workers", type=int, help="simulator processes")
    parser.flag("dry_run", action="store_true", help="say which data stages would run")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


# ------------------------------------------------------------------ demonstrations


def _of_adapter(values: Namespace) -> tuple[Subset, ...]:
    from training.card import load_card

    return (load_card(Path(values.adapter)).subset,) if values.adapter else ()


def _of_study(values: Namespace, subsets: tuple[Subset, ...]) -> tuple[ExperimentConfig, list[Demonstrations]]:
    """Of the study's data stages, brought up to date; of all subsets where the tokenizer is fitted on all."""
    from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
    from data_pipeline.data_splitter import SPLIT_FILE, load_split

    data, prepared = data_for(values, *subsets)
    if data.config.model.base == SCRATCH and not values.adapter:
        subsets = STUDY
        data, prepared = data_for(values, *subsets)
    targets = tuple(data.stats(subset) for subset in subsets)
    study = Study(data.places, targets, tuple(expert_views(data)), title="oracle", decisions=prepared.said)
    done = run_study(study, choice_of(values, data.config))
    if values.dry_run or done.code:
        return data.config, []
    own = [
        Demonstrations(
            subset,
            entry_of(data, data.regenerate(subset)),
            load_split(entry_of(data, data.split(subset)) / SPLIT_FILE),
            ActionStatistics.load(entry_of(data, data.stats(subset)) / STATISTICS_FILE),
        )
        for subset in subsets
    ]
    return data.config, _on_one_scale(data.config, own)


def _on_one_scale(config: ExperimentConfig, found: list[Demonstrations]) -> list[Demonstrations]:
    """With the statistics that training would use: on a tiny base, those of the base."""
    from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics, pooled_statistics
    from data_pipeline.raw_loader import Hdf5Source

    def training() -> Iterator[Episode]:
        for one in found:
            source = Hdf5Source(one.folder, one.subset)
            yield from map(source.open, one.split.train)

    if config.model.base not in TINY_BASES:
        return found
    if config.model.base == TINY:
        shared = ActionStatistics.load(SHIPPED / STATISTICS_FILE)
    else:
        shared = pooled_statistics(
            BASE_STATISTICS, training(), config.action.half_range_floor, config.action.normalization
        )
    return [replace(one, statistics=shared) for one in found]


def _given(values: Namespace, folder: Path) -> tuple[ExperimentConfig, list[Demonstrations]]:
    """Of a folder, divided and summarised as the stages would."""
    subset = subset_of(folder)
    config = resolve(settings_of(values), (), places_of(values).data_dir, named_source).config
    split = split_as_staged(config, folder, subset)
    own = Demonstrations(subset, folder, split, statistics_as_staged(config, folder, subset, split))
    return config, _on_one_scale(config, [own])


# ------------------------------------------------------------------ training's side and the deployed one


def _sides(
    values: Namespace, config: ExperimentConfig, found: Sequence[Demonstrations], subset: Subset
) -> tuple[ActionPath, list[Fault]]:
    """Both sides, and what is wrong already with the deployed one's files."""
    from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
    from evaluation.episodes import make_protocol
    from evaluation.interface import Interface
    from evaluation.oracle_card import card_faults, length_faults, load_interface
    from evaluation.oracle_path import ActionPath
    from training.action_tokenizer import ACTION_TOKENIZER_FILE, load

    own, size = next(d.statistics for d in found if d.subset is subset), config.model.image_size
    horizon, protocol = config.action.horizon, make_protocol(config.eval, config.action.execute, MAX_STEPS[subset])
    if not values.adapter:
        taught = Interface(_tokenizer(config, found, subset), own, size)
        return ActionPath(taught, taught), length_faults(taught, horizon, protocol)
    deployed, card = load_interface(Path(values.adapter))
    check(card.subset is subset, f"--subset {subset}, but {values.adapter} was trained on {card.subset}")
    used, base = deployed.tokenizer, _tiny_base(values, card.base_digest)
    if base is not None:
        own = ActionStatistics.load(base / STATISTICS_FILE)
    if used.digest != card.action_tokenizer:
        used = load(base / ACTION_TOKENIZER_FILE) if base is not None else _tokenizer(config, found, subset)
    taught = Interface(used, own, size)
    faults = card_faults(card, deployed, taught)
    return ActionPath(taught, deployed), faults + length_faults(deployed, horizon, protocol)


def _tokenizer(config: ExperimentConfig, found: Sequence[Demonstrations], subset: Subset) -> FastTokenizer:
    """The one that training would use: the shipped base's, of FAST+'s files, or a fit (`scratch`: on all subsets)."""
    from data_pipeline.raw_loader import Hdf5Source
    from training.action_tokenizer import ACTION_TOKENIZER_FILE, load
    from training.train_inputs import make_actions

    if config.model.base == TINY:
        ShippedBase.read().check_fits(config)
        return load(SHIPPED / ACTION_TOKENIZER_FILE)
    fitted_on = found if config.model.base == SCRATCH else [d for d in found if d.subset is subset]

    def normalised() -> Iterator[np.ndarray]:
        for demonstrations in fitted_on:
            source = Hdf5Source(demonstrations.folder, demonstrations.subset)
            for episode in demonstrations.split.train:
                yield demonstrations.statistics.normalize(source.open(episode).actions)

    largest = max(d.statistics.largest for d in fitted_on)
    tokenizer = make_actions(config.action, normalised(), largest)
    tokenizer.check_reach(largest)
    return tokenizer


def _tiny_base(values: Namespace, digest: str) -> Path | None:
    """The tiny base that an adapter was trained on: the shipped one, or one in the store."""
    stored = sorted(places_of(values).store.glob(f"base/*/{BASE_FOLDER}"))
    return next((folder for folder in (SHIPPED, *stored) if folder_digest(folder) == digest), None)


# ------------------------------------------------------------------ the examination


def _examine(
    values: Namespace, config: ExperimentConfig, found: Sequence[Demonstrations], wanted: Sequence[Subset]
) -> int:
    from evaluation.episodes import make_protocol
    from evaluation.oracle import Examination, examine, recordings
    from evaluation.oracle_faults import Part
    from evaluation.simulators import make_pool

    examinations: dict[Subset, Examination] = {}
    with make_pool(config.eval, config.env) as pool:
        for demonstrations in (d for d in found if d.subset in wanted):
            subset = demonstrations.subset
            path, faults = _sides(values, config, found, subset)
            if faults and any(fault.part is Part.CHUNK_LENGTH for fault in faults):
                examinations[subset] = Examination((), tuple(faults))
                continue
            executes = sorted({config.action.execute, path.deployed.tokenizer.horizon})
            protocols = {p.execute: p for p in (make_protocol(config.eval, e, MAX_STEPS[subset]) for e in executes)}
            chosen = recordings(demonstrations.folder, subset, demonstrations.split.test, values.demos)
            others = [d.statistics for d in found if d.statistics is not path.taught.statistics]
            seen = examine(chosen, path, list(protocols.values()), pool, others)
            examinations[subset] = Examination(seen.rows, (*faults, *seen.faults))
            print(f"  {subset}: {len(chosen)} demonstrations replayed", flush=True)
    print(report(examinations))
    return 0 if all(examination.good for examination in examinations.values()) else EXIT_FOUND


def report(examinations: Mapping[Subset, Examination]) -> str:
    """The table, what the tokenizer costs, and the faults."""
    from evaluation.oracle import PASS_RATE

    rows = [row for examination in examinations.values() for row in examination.rows]
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    table = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    costs = [
        f"{row.subset}, chunks of {row.horizon}, {row.execute} executed: the tokenizer costs "
        f"{row.fidelity.position_mm:.2f} mm and {row.fidelity.rotation_mrad:.1f} mrad RMSE per axis and step, "
        f"{len(row.lost)} of {row.judged} successes lost{_named(row.lost)}"
        for row in rows
    ]
    faults = [f"FAULT {subset}, {fault.part}: {fault.says}" for subset, e in examinations.items() for fault in e.faults]
    hint = "; no fault explains it: raise action.scale, or clip nothing (action.normalization=bounds)"
    lost = [
        f"FAILED {row.subset}, {row.execute} executed: {row.rate:.0%} of what succeeds raw survives, "
        f"fewer than {PASS_RATE:.0%}{'' if examination.faults else hint}"
        for examination in examinations.values()
        for row in examination.rows
        if row.judged and row.rate < PASS_RATE
    ]
    verdict = "the path is right" if not faults and not lost else "the path is not right: mend it before training"
    return "\n".join((*table, *costs, *faults, *lost, verdict))


def _named(lost: Sequence[EpisodeId]) -> str:
    """`: object/00/003, ...`; the first few."""
    return f": {', '.join(map(str, lost[:NAMED]))}{', ...' if len(lost) > NAMED else ''}" if lost else ""


def _cells(row: Row) -> tuple[str, ...]:
    fidelity = row.fidelity
    return (
        row.subset.value,
        f"{row.execute} of {row.horizon}",
        str(row.demos),
        str(row.raw),
        str(row.passed),
        f"{row.rate:.0%}",
        f"{fidelity.position_mm:.2f} mm",
        f"{fidelity.rotation_mrad:.1f} mrad",
        f"{fidelity.gripper_steps} of {len(fidelity.pairs.recorded)}",
        f"{fidelity.tokens:.1f}",
    )
