"""Which LIBERO assets (meshes, textures, MJCF) a run uses, and where they lie.

`official` assets are the published ones; nothing here downloads them. The `builtin` set is made by this project from
measured figures: the same physics, other visuals (docs/decisions/0003-built-in-assets.md).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.checks import ConfigError
from configs.choices import Subset
from configs.data import EnvConfig
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import SUITE_OF, task_names, tasks_text
from data_pipeline.sim import builtin_assets
from data_pipeline.sim.boot import cache_root, libero_root, user_assets_path

HUB_REPOSITORY = "lerobot/libero-assets"
"""The Hugging Face data set that holds the official assets."""

DOWNLOAD_FOLDER = "~/.cache/libero/assets"
"""Where LIBERO itself downloads them to."""

ASSETS_VARIABLE = "LIBERO_ASSETS_PATH"

_PLACES = (
    "stable_scanned_objects/{0}/{0}.xml",
    "stable_hope_objects/{0}/{0}.xml",
    "turbosquid_objects/{0}/{0}.xml",
    "articulated_objects/{0}.xml",
)
"""Where LIBERO's four families of objects lie in a set, by kind."""

_TABLES = frozenset({"table", "floor", "kitchen_table", "living_room_table", "study_table"})
_INSTANCES = re.compile(r"\(:(?:fixtures|objects)\s(.*?)\)", re.DOTALL)
_KIND = re.compile(r" - (\w+)")
_FACTS = Path(__file__).with_name("asset_facts.json")


@dataclass(frozen=True)
class AssetSet:
    """A resolved set of assets."""

    kind: str  # official | builtin
    path: Path
    digest: str  # sha256, 64 hex digits


def resolve(kind: str) -> AssetSet:
    """kind: auto (official where they are configured, else builtin), official, builtin.

    Official assets are looked for in $LIBERO_ASSETS_PATH, in LIBERO's own config.yaml, in LIBERO's download folder
    and in the Hugging Face cache. Raises EnvironmentProblem where official ones are asked for and absent, or
    $LIBERO_ASSETS_PATH does not hold them; ConfigError for another kind.
    """
    if kind not in ("auto", "official", "builtin"):
        raise ConfigError(f"env.assets={kind!r}; allowed: auto, official, builtin")
    official = None if kind == "builtin" else find_official()
    if official is not None:
        return AssetSet("official", official, _official_digest(official))
    if kind == "official":
        raise EnvironmentProblem(
            f"the official LIBERO assets were not found. Fetch them with `nora-ecot download --assets --use-hub` "
            f"(or set {ASSETS_VARIABLE} to where they are); or run with the built-in set: env.assets=builtin"
        )
    return _builtin()


@functools.cache
def facts() -> dict[str, Any]:
    """The table of measured figures from which the built-in set is made. Do not modify what it returns."""
    return json.loads(_FACTS.read_text())


def find_official() -> Path | None:
    """The first folder that holds every file which the four suites need, or None."""
    named = os.environ.get(ASSETS_VARIABLE, "")
    if named:
        missing = _missing(Path(named))
        if missing:
            raise EnvironmentProblem(
                f"{ASSETS_VARIABLE}={named} does not hold LIBERO's assets ({missing[0]} and {len(missing) - 1} more "
                f"are missing); correct it, or unset it to use the built-in set"
            )
        return Path(named).resolve()
    candidates = [Path(p) for p in (user_assets_path(),) if p]
    candidates.append(Path(DOWNLOAD_FOLDER).expanduser())
    candidates += _hub_snapshots()
    return next((path.resolve() for path in candidates if not _missing(path)), None)


def check_objects(env: EnvConfig, subset: Subset, tasks: Iterable[int]) -> None:
    """Raise EnvironmentProblem where the asset set lacks an object of one of the tasks; some of libero_90's do.

    env.assets is resolved. Reads BDDL files and looks for MJCF files, nothing else.
    """
    found, chosen, names = resolve(env.assets), tuple(tasks), task_names(subset)
    lacking = {task: lost for task in chosen if (lost := _lost(found.path, bddl_file(subset, names[task])))}
    if not lacking:
        return
    objects = ", ".join(sorted({name for lost in lacking.values() for name in lost}))
    rest = tasks_text(task for task in chosen if task not in lacking)
    fetch = "fetch the official set with `nora-ecot download --assets --use-hub` and use it: env.assets=official"
    complete = f"complete it from the Hugging Face data set {HUB_REPOSITORY}"
    raise EnvironmentProblem(
        f"the {found.kind} assets in {found.path} lack {objects}, which {SUITE_OF[subset]} needs in tasks "
        f"{tasks_text(lacking)}; {complete if found.kind == 'official' else fetch}"
        + (f"; or leave those tasks out: --tasks {rest}" if rest else "")
    )


def bddl_file(subset: Subset, task_name: str) -> Path:
    """A task's definition in the installed package."""
    return libero_root() / "bddl_files" / SUITE_OF[subset] / f"{task_name}.bddl"


def _lost(root: Path, bddl: Path) -> list[str]:
    """Kinds of objects and fixtures in a task's definition that the set has no MJCF for. Tables are of the arena."""
    kinds = {kind for block in _INSTANCES.findall(bddl.read_text()) for kind in _KIND.findall(block)}
    return sorted(k for k in kinds if k not in _TABLES and not any((root / p.format(k)).is_file() for p in _PLACES))


def _missing(root: Path) -> list[str]:
    table = facts()
    sources = [entry["source"] for group in ("objects", "arenas") for entry in table[group].values()]
    return [source for source in sources if not (root / source).is_file()]


def _hub_snapshots() -> list[Path]:
    """Snapshots of the data set in the Hugging Face cache, newest first."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", str(home / "hub"))).expanduser()
    folder = hub / f"datasets--{HUB_REPOSITORY.replace('/', '--')}" / "snapshots"
    if not folder.is_dir():
        return []
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)


@functools.cache
def _official_digest(root: Path) -> str:
    """Over the MJCF files' bytes (they are the physics) and every other file's name and size (164 MB and more)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes() if path.suffix == ".xml" else str(path.stat().st_size).encode()
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


@functools.cache
def _builtin() -> AssetSet:
    """Made once per machine, in a folder named by what it is made from."""
    path, digest = builtin_assets.ensure(facts(), cache_root())
    return AssetSet("builtin", path, digest)
