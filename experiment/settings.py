"""Flags and overrides -> a resolved configuration, folders, choices."""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.building import canonical
from configs.checks import ConfigError, check, in_range
from configs.choices import STUDY, Subset
from configs.schema import ExperimentConfig
from data_pipeline.libero_utils import parse_subset
from evaluation.episodes import NORA_EXECUTED_STEPS
from experiment import compose
from experiment.cli import typed_command
from experiment.devices import cuda_devices, device_groups
from experiment.places import Places
from experiment.resolve import EXPERT, FindSource, Resolved, find_source, needed_subsets, resolve, resolve_preset
from experiment.rewording import permission, secret_of
from experiment.study import Choice, usable_cores
from experiment.survey import flatten

FLAG_KEYS = {
    "lora_rank": "lora.rank",
    "learning_rate": "optimizer.learning_rate",
    "max_train_steps": "max_train_steps",
    "reasoning_dropout_prob": "reasoning_dropout.prob",
    "cot_loss_weight": "reasoning_dropout.cot_loss_weight",
    "num_trials": "eval.num_trials",
    "protocol": "eval.protocol",
    "execute": "action.execute",
    "perturb": "eval.perturb",
    "episodes_per_task": "data.demos_per_task",
    "image_resolution": "env.resolution",
    "skip_bad": "data.skip_bad",
    "backend": "flow.backend",
    "llm_model": "annotator.model",
    "model": "annotator.model",
    "llm_base_url": "annotator.base_url",
    "base_url": "annotator.base_url",
    "max_usd": "annotator.max_usd",
    "concurrency": "annotator.concurrency",
}
"""Flags that are another spelling of a configuration key."""

_ANNOTATOR = re.compile(r"^annotator=")  # annotator=llm
_NAME = re.compile(r"[^\W_][\w.+-]{0,79}")
_NOT_IN_VARIANT = ("preset", "eval", "executor", "trainer", "phase", "data.skip_bad")
"""Settings, with all that is under them, that leave the names of a study's folders as they are."""


def read_overrides(values: Namespace) -> tuple[str, list[str], list[str]]:
    """(preset, sentences to print, overrides without the preset). Raises ConfigError where a flag contradicts."""
    typed = [_ANNOTATOR.sub("annotator.kind=", text) for text in values.overrides]
    given = dict(compose.override_value(text) for text in typed)
    overrides = [text for text in typed if not text.startswith("preset=")]
    flags = _flag_values(values)
    if getattr(values, "api_key", ""):
        flags["annotator.kind"] = "llm"
    mode = getattr(values, "mode", None)
    if mode:
        flags["eval.modes"] = "[no_think,think]" if mode == "both" else f"[{mode}]"
    for key, text in flags.items():
        _, value = compose.override_value(f"{key}={text}")
        if key in given and not _same(given[key], value):
            raise ConfigError(f"a flag says {key}={value!r} and an override says {key}={given[key]!r}; keep one")
        if key not in given:
            overrides.append(f"{key}={text}")
    if (workers := getattr(values, "num_workers", None)) is not None:
        in_range("--num_workers", workers, 1)
        if "eval.sim_workers" not in given:
            overrides.append(f"eval.sim_workers={workers}")
    preset, said = resolve_preset(str(given.get("preset", "auto")))
    return preset, [said] if said else [], overrides


def _flag_values(values: Namespace) -> dict[str, str]:
    """Key -> text of the flags that were given. Raises ConfigError where two flags of one key disagree."""
    found: dict[str, str] = {}
    for flag, key in FLAG_KEYS.items():
        text = getattr(values, flag, None)
        if text is None:
            continue
        check(found.get(key, text) == text, f"two flags say {key}: {found.get(key)!r} and {text!r}; keep one")
        found[key] = text
    return found


def check_model_flags(values: Namespace, config: ExperimentConfig) -> None:
    """Raise ConfigError for flags of the language model where none is asked: an environment's key never spends."""
    given = [flag for flag, key in FLAG_KEYS.items() if key.startswith("annotator.") and getattr(values, flag, None)]
    check(
        not given or config.annotator.kind == "llm",
        f"{', '.join('--' + flag.replace('_', '-') for flag in given)} without a language model does nothing; add "
        "--llm-api-key KEY, or annotator=llm to use the key in the environment",
    )


def _check_protocol(overrides: Sequence[str], config: ExperimentConfig) -> None:
    """Raise ConfigError where steps per query were typed and the protocol has its own."""
    typed = any(text.startswith("action.execute=") for text in overrides)
    own = config.eval.protocol == "nora" and config.action.execute != NORA_EXECUTED_STEPS
    check(
        not (typed and own),
        f"action.execute={config.action.execute} (--execute), but eval.protocol=nora executes {NORA_EXECUTED_STEPS} "
        "steps of each chunk; leave it out",
    )


def _same(a: Any, b: Any) -> bool:
    """Equal, also `5e-5` (text to YAML 1.1) and 0.00005."""
    try:
        return a == b or float(a) == float(b)
    except (TypeError, ValueError):
        return False


def places_of(values: Namespace) -> Places:
    """Absolute folders of a run."""
    return Places(Path(values.output_dir).absolute(), Path(values.data_dir).absolute())


def data_workers(values: Namespace, config: ExperimentConfig, subsets: int) -> int:
    """Simulator processes of one data stage (demos, regenerate, annotate, flow): `--num_workers`, or the cores shared.

    The data stages of one subset follow each other, so that alone they get every core; those of several subsets (the
    tiny backbone needs all four) run side by side and share them. Two cores and four subsets: one process per stage,
    because two stages with a process each need no second simulator per task. The executor counts a stage's processes
    as cores, so that a larger `--num_workers` runs fewer stages at once. Evaluation has its own number,
    `eval.sim_workers`, which the flag sets too unless it is given.
    """
    if values.num_workers is not None:
        return values.num_workers
    return max(1, (config.executor.cores or usable_cores()) // subsets)


def choice_of(values: Namespace, config: ExperimentConfig) -> Choice:
    """Which stages run, and how."""
    check(config.executor.kind == "local", f"executor.kind={config.executor.kind!r}; allowed: local")
    no_device = config.trainer.device == "cuda" and cuda_devices() == 0
    check(not no_device, "trainer.device=cuda, and no CUDA device is here; allowed: auto, cpu")
    names = [name for name in getattr(values, "force", "").split(",") if name]
    start = getattr(values, "from", "")
    only = tuple(name for name in getattr(values, "only", "").split(",") if name)
    return Choice(
        only=only,
        force=(*names, *([start] if start else [])),
        retry_errors=getattr(values, "retry_errors", False),
        dry_run=values.dry_run,
        cores=config.executor.cores,
        retries=config.executor.retries,
        devices=() if config.trainer.device == "cpu" else device_groups(config.trainer.processes),
        command=typed_command() + (" --llm-api-key ..." if getattr(values, "api_key", "") else ""),
        secret=secret_of(values, config.annotator),
    )


def required_subset(values: Namespace) -> Subset:
    """`--subset`, which must be there."""
    check(bool(values.subset), f"--subset is needed; allowed: {', '.join(s.value for s in STUDY)}")
    return parse_subset(values.subset)


@dataclass(frozen=True)
class Prepared:
    """A resolved configuration with what to say about it and what keeps its folders apart."""

    resolved: Resolved
    said: tuple[str, ...]
    variant: str


def prepare(
    phase: Path,
    values: Namespace,
    subsets: Sequence[Subset],
    extra: Sequence[str] = (),
    find: FindSource = find_source,
) -> Prepared:
    """Compose and resolve one phase. `extra` are overrides of this run alone, such as its seed."""
    preset, said, overrides = read_overrides(values)
    config = compose.compose(phase, [f"preset={preset}", *overrides, *extra])
    _check_protocol(overrides, config)
    wanted = needed_subsets(config, subsets)
    places = places_of(values)
    resolved = resolve(config, wanted, places.data_dir, find)
    check(
        not config.data.skip_bad or any(source.kind != EXPERT for source in resolved.sources.values()),
        "data.skip_bad (--skip-bad) acts on official files, and every demonstration here is the scripted expert's; "
        "leave it out",
    )
    changed = bool(overrides or extra)
    plain = compose.compose(phase, [f"preset={preset}"]) if changed else config
    name = _given_name(values) or variant(resolved.config, _like(resolved.config, plain))
    check_model_flags(values, config)
    asks = config.annotator.kind == "llm" and "reasoning" in config.phase.sources
    allowed = (permission(values, config),) if asks else ()
    return Prepared(resolved, (*said, *resolved.decisions, *allowed), name)


def _given_name(values: Namespace) -> str:
    """`--name`, which becomes part of folder names."""
    name = getattr(values, "name", "")
    check(
        not name or _NAME.fullmatch(name) is not None,
        f"--name {name!r} becomes part of folder names; allowed: at most 80 letters, digits and . _ + -, the first a "
        "letter or digit",
    )
    return name


def _like(config: ExperimentConfig, plain: ExperimentConfig) -> ExperimentConfig:
    """The plain configuration, its `auto` values read as this run resolved them."""
    assets = config.env.assets if plain.env.assets == "auto" else plain.env.assets
    env = replace(plain.env, assets=assets, assets_digest=config.env.assets_digest)
    data = replace(plain.data, source=config.data.source) if plain.data.source == "auto" else plain.data
    flow = replace(plain.flow, backend=config.flow.backend) if plain.flow.backend == "auto" else plain.flow
    annotator = replace(plain.annotator, kind=config.annotator.kind)  # see docs/decisions, language model annotator
    return replace(plain, env=env, data=data, flow=flow, annotator=annotator)


def variant(config: ExperimentConfig, plain: ExperimentConfig) -> str:
    """Names what differs from the phase's and preset's own settings and can change an adapter: `prob0.3+rank8`."""
    old, new = flatten(canonical(plain)), flatten(canonical(config))
    apart = tuple(f"{name}." for name in _NOT_IN_VARIANT)
    changed = [key for key in new if new[key] != old.get(key) and not f"{key}.".startswith(apart)]
    return "+".join(f"{key.rpartition('.')[2]}{short(new[key])}" for key in sorted(changed))


def short(value: Any) -> str:
    """As it stands in a folder's name: itself where it is short and plain, or a digest of six digits."""
    text = str(value)
    if text and len(text) <= 16 and all(c.isalnum() or c in "._-" for c in text):
        return text
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:6]
