"""`auto` -> a concrete value, announced. Looks at this machine and at the data folder; never downloads.

Nothing here imports torch or the simulator: `--dry-run` must answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.checks import ConfigError, check
from configs.choices import STUDY, Subset
from configs.data import EnvConfig
from configs.schema import ExperimentConfig
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import SUITE_OF
from experiment.devices import cuda_devices
from experiment.views import NOTE_FILE
from training.base_folder import SCRATCH, TINY, TINY_BASES

EXPERT = "expert"
OFFICIAL = "official"


@dataclass(frozen=True)
class DataSource:
    """Where one subset's demonstrations come from."""

    kind: str  # expert | official
    folder: Path | None = None  # of official files
    clean: bool = False  # already replayed and filtered

    def text(self) -> str:
        """For announcements."""
        if self.folder is None:
            return "scripted expert"
        return f"{self.folder} ({'already regenerated' if self.clean else 'raw'})"


@dataclass(frozen=True)
class Resolved:
    """A configuration without `auto`, where its data come from, and what was decided, in words."""

    config: ExperimentConfig
    sources: Mapping[Subset, DataSource]
    decisions: tuple[str, ...]


def resolve_preset(preset: str) -> tuple[str, str]:
    """(preset, sentence about the choice or ""): `auto` is nora_3b where there is a CUDA device, else tiny."""
    if preset != "auto":
        return preset, ""
    if cuda_devices():
        return "nora_3b", "preset: nora_3b (a CUDA device is here; preset=tiny runs the small check instead)"
    return "tiny", "preset: tiny (no CUDA device here; preset=nora_3b is the study itself)"


FindSource = Callable[[str, Subset, Path], DataSource]
"""(data.source, subset, data_dir) -> where its demonstrations come from."""


def resolve(config: ExperimentConfig, subsets: Iterable[Subset], data_dir: Path, find: FindSource) -> Resolved:
    """Replace every `auto`. Raises EnvironmentProblem where a pinned choice is missing, with both remedies."""
    _check_base(config.model.base)
    decisions: list[str] = []
    seen = config.env.assets == "auto" and config.model.base == TINY  # the pictures that the shipped base knows
    env = _resolve_assets(replace(config.env, assets="builtin") if seen else config.env)
    asked = tuple(subsets)
    sources = {subset: _found(config, subset, asked[0], data_dir, find) for subset in asked}
    for source in sources.values():
        check(
            not (config.data.skip_bad and source.clean),
            f"data.skip_bad acts where raw files are regenerated, and {source.folder} is clean already; leave it out",
        )
        check_drawn_alike(source, env)
    backend = _resolve_flow(config.flow.backend, sources)
    if config.env.assets == "auto":
        why = ", which the tiny base has learned from" if seen else ""
        decisions.append(f"assets: {env.assets}{why} (env.assets)")
    if config.data.source == "auto":
        decisions += [f"data {subset.value}: {source.text()} (data.source)" for subset, source in sources.items()]
    decisions += [f"data {s.value}: {f.text()} wins over the raw files" for s, f in sources.items() if f.clean]
    if config.flow.backend == "auto":
        decisions.append(f"flow: {backend} (flow.backend)")
    if config.optimizer.warmup_steps > config.max_train_steps:
        decisions.append(
            f"learning rate: its warm-up of {config.optimizer.warmup_steps} steps (optimizer.warmup_steps) is longer "
            f"than the training of {config.max_train_steps} (max_train_steps): it never reaches its peak"
        )
    kinds = {source.kind for source in sources.values()}
    concrete = replace(
        config,
        env=env,
        data=replace(config.data, source=kinds.pop() if len(kinds) == 1 else config.data.source),
        flow=replace(config.flow, backend=backend),
    )
    return Resolved(concrete, sources, tuple(decisions))


def _check_base(base: str) -> None:
    """A folder that is not there is named now, not when the data are made; whether the hub has an id, the hub knows."""
    is_hub_id = base.count("/") == 1 and not base.startswith((".", "/", "~"))
    check(
        base in TINY_BASES or is_hub_id or Path(base).is_dir(),
        f"model.base={base} is no folder; allowed: {', '.join(TINY_BASES)}, a model's folder, or a hub id such as "
        "declare-lab/nora",
    )


def _found(config: ExperimentConfig, subset: Subset, first: Subset, data_dir: Path, find: FindSource) -> DataSource:
    try:
        return find(config.data.source, subset, data_dir)
    except EnvironmentProblem as problem:
        if config.flow.tokenizer != "fsq" or subset is first:
            raise
        raise EnvironmentProblem(
            f"{problem}. Where {subset.value} is only needed to fit the flow tokenizer: fit it on other subsets, e.g. "
            f"flow.codebook.subsets=[{first.value}]"
        ) from problem


NeededSubsets = Callable[[ExperimentConfig, Iterable[Subset]], tuple[Subset, ...]]
"""(configuration, subsets asked for) -> the subsets whose data that takes."""


def asked_subsets(config: ExperimentConfig, subsets: Iterable[Subset]) -> tuple[Subset, ...]:
    """Just those."""
    return tuple(subsets)


def needed_subsets(config: ExperimentConfig, subsets: Iterable[Subset]) -> tuple[Subset, ...]:
    """Subsets whose data a run needs: a tiny backbone is trained on all four, whatever is asked for."""
    if config.model.base == SCRATCH:
        return STUDY
    return flow_subsets(config, subsets) if "flow" in config.phase.sources else tuple(subsets)


def flow_subsets(config: ExperimentConfig, subsets: Iterable[Subset]) -> tuple[Subset, ...]:
    """Subsets whose data flow tokens need: with those that the tokenizer is fitted on."""
    fitted = config.flow.codebook.subsets if config.flow.tokenizer == "fsq" else ()
    return tuple(dict.fromkeys((*subsets, *fitted)))


def find_source(wanted: str, subset: Subset, data_dir: Path) -> DataSource:
    """Official files in `<data_dir>/libero_<subset>_clean` or `libero_<subset>` win over the expert under `auto`.

    Folders that this project wrote from expert demonstrations are none of those.
    """
    if wanted == EXPERT:
        return DataSource(EXPERT)
    for folder, clean in _candidates(subset, data_dir):
        if any(folder.glob("*.hdf5")) and not made_by_expert(folder):
            return DataSource(OFFICIAL, folder, clean)
    if wanted == "auto":
        return DataSource(EXPERT)
    name = f"libero_{subset.value}"
    raise EnvironmentProblem(
        f"no LIBERO demonstrations (*.hdf5) in {data_dir / name} or {data_dir / (name + '_clean')}. Download "
        f"{SUITE_OF[subset]} there (`nora-ecot download --subset {subset.value}` says how, or does it with "
        "--use-hub), or use the scripted expert's demonstrations: data.source=expert"
    )


def named_source(wanted: str, subset: Subset, data_dir: Path) -> DataSource:
    """`find_source` for a run that reads no demonstrations: what is pinned need not be on this machine."""
    return find_source(wanted, subset, data_dir) if wanted == "auto" else DataSource(wanted)


def made_by_expert(folder: Path) -> bool:
    """Whether this project wrote the folder from expert demonstrations."""
    note = folder / NOTE_FILE
    return note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("demonstrations") == EXPERT


def _candidates(subset: Subset, data_dir: Path) -> list[tuple[Path, bool]]:
    names = [f"libero_{subset.value}"]
    if SUITE_OF[subset] not in names:
        names.append(SUITE_OF[subset])
    return [(data_dir / f"{n}_clean", True) for n in names] + [(data_dir / n, False) for n in names]


def _resolve_assets(env: EnvConfig) -> EnvConfig:
    """The environment's settings with the asset set found, and its digest: other assets are other results."""
    from data_pipeline.sim.assets import resolve

    found = resolve(env.assets)  # raises with the remedies
    return replace(env, assets=found.kind, assets_digest=found.digest)


def _resolve_flow(wanted: str, sources: Mapping[Subset, DataSource]) -> str:
    if wanted != "auto":
        return wanted
    recorded = [source for source in sources.values() if source.folder is not None and source.clean]
    return "sim" if all(_has_states(source) for source in recorded) else "dis_chain"


def _has_states(source: DataSource) -> bool:
    """Whether files hold simulator states. Raw files are replayed first, so only clean ones need a look."""
    return _of_first_file(source, lambda demos: all("states" in demos[name] for name in demos))


def check_drawn_alike(source: DataSource, env: EnvConfig) -> None:
    """Raise ConfigError where clean files of this project show other pictures than `env` will in evaluation."""
    if not source.clean:
        return  # raw files are drawn anew
    drawn = _of_first_file(source, lambda demos: json.loads(next(iter(demos.values())).attrs.get("fingerprint", "{}")))
    for key, wanted in (("assets", env.assets), ("look", env.look.value)):
        found = drawn.get(key, wanted)
        check(
            found == wanted,
            f"{source.folder} was drawn with env.{key}={found}, and evaluation would show env.{key}={wanted}; "
            f"regenerate the folder with env.{key}={wanted} (scripts/regenerate_libero.py), or set env.{key}={found}",
        )


def _of_first_file(source: DataSource, look: Callable[[Any], Any]) -> Any:
    """What `look` finds in the group `data` of a folder's first file."""
    import h5py

    assert source.folder is not None
    path = next(iter(sorted(source.folder.glob("*.hdf5"))))
    try:
        with h5py.File(path) as file:
            return look(file["data"])
    except (OSError, KeyError) as problem:
        raise ConfigError(f"{path} is not a LIBERO demonstration file ({problem}); download it again") from problem
