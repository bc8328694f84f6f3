"""Phase files, presets and overrides -> one typed configuration. The only file that knows Hydra and OmegaConf.

Order: the schema's defaults, base.yaml, the phase file, the preset, the command line; later wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.building import build, canonical
from configs.checks import ConfigError, check
from configs.choices import Role
from configs.phases import PhaseSpec, Segment
from configs.schema import ExperimentConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_STANDARD_DEFAULTS = ["base", "_self_", {"preset": "nora_3b"}]
_GROUPS = ("preset",)


def ablations() -> dict[str, Path]:
    """Name -> file of the controls in configs/ablations/, which --all-phases leaves out."""
    return {path.stem: path for path in sorted((CONFIGS / "ablations").glob("*.yaml"))}


def phase_files() -> dict[str, Path]:
    """Name -> file of every phase in configs/, in the table's order: fewest segments first."""
    found = {path: _read_yaml(path) for path in sorted(CONFIGS.glob("*.yaml"))}
    phases = {path: values["phase"] for path, values in found.items() if "phase" in values}
    ordered = sorted(phases, key=lambda path: (len(phases[path].get("segments", ())), path.stem))
    return {path.stem: path for path in ordered}


def find_phase(text: str) -> Path:
    """A phase by name, or by the path of its YAML file. Raises ConfigError with the nearest name."""
    known = phase_files() | ablations()
    if text in known:
        return known[text]
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml"):
        check(path.is_file(), f"phase file {text!r} does not exist")
        return path.resolve()
    raise ConfigError(f"unknown phase {text!r}; {_nearest(text, list(known))}, or give the path of a phase's YAML file")


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (CONFIGS / "preset").glob("*.yaml"))


def compose(phase: Path, overrides: Sequence[str]) -> ExperimentConfig:
    """One configuration. Overrides are `key=value` in Hydra's grammar.

    Raises ConfigError for whatever does not fit, naming the key and the nearest one.
    """
    values = _phase_values(phase)
    for override in overrides:
        _check_override(override)
    store = ConfigStore.instance()
    store.store(name="schema_defaults", node=_schema_defaults())
    store.store(name="phase_file", node={**values, "defaults": ["schema_defaults", *values["defaults"]]})
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose("phase_file", overrides=list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as problem:
        raise ConfigError(f"{phase.name}: {_one_line(problem)}") from problem
    assert isinstance(plain, dict)
    return build(ExperimentConfig, {str(key): value for key, value in plain.items()})


def override_value(override: str) -> tuple[str, Any]:
    """`lora.rank=8` -> ("lora.rank", 8)."""
    name, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is neither a flag nor an override of the form key=value")
    try:
        return name.lstrip("+~"), yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: {text!r} is not a value") from None


def _phase_values(path: Path) -> dict[str, Any]:
    values = _read_yaml(path)
    check("phase" in values, f"{path.name} has no key 'phase': a phase file says its segments (see configs/)")
    phase = values["phase"]
    check(isinstance(phase, Mapping), f"phase={phase!r} in {path.name} must be a group of keys")
    return {"defaults": _STANDARD_DEFAULTS, **values, "phase": {"name": path.stem, **phase}}


def _read_yaml(path: Path) -> dict[str, Any]:
    """Plain values of a YAML file, interpolations left as text. Numbers are read as OmegaConf reads them (5e-5)."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as problem:
        raise ConfigError(f"{path} is not valid YAML: {_one_line(problem)}") from problem
    check(isinstance(loaded, dict), f"{path} must hold keys and values")
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def _schema_defaults() -> dict[str, Any]:
    """Every setting of the schema except the phase, so that any of them can be overridden."""
    placeholder = PhaseSpec("none", (Segment(Role.ACTION, "action"),))
    values = canonical(ExperimentConfig(phase=placeholder), key_only=False)
    return {name: value for name, value in values.items() if name != "phase"}


def _check_override(override: str) -> None:
    name, _ = override_value(override)
    group, _, rest = name.partition(".")
    if name in _GROUPS:
        _, _, chosen = override.partition("=")
        check(chosen in presets(), f"unknown preset {chosen!r}; {_nearest(chosen, [*presets(), 'auto'])}")
        return
    known = _known_keys()
    if name not in known and not (group == "phase" and rest):
        raise ConfigError(f"unknown key {name}; {_nearest(name, known)}")


def _known_keys() -> list[str]:
    keys: list[str] = []

    def walk(values: Mapping[str, Any], path: str) -> None:
        for name, value in values.items():
            keys.append(path + name)
            if isinstance(value, Mapping):
                walk(value, f"{path}{name}.")

    walk(_schema_defaults(), "")
    return keys


def _nearest(text: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(text, known, 1) or [name for name in known if name.endswith(f".{text}")][:1]
    return f"did you mean {near[0]}?" if near else f"allowed: {', '.join(name for name in known if '.' not in name)}"


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())
