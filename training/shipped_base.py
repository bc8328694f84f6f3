"""The tiny base that comes with the project: trained once (`nora-ecot make_base`), verified whenever it is used.

``tiny_base/`` beside this file is an ordinary model folder with its action tokenizer and the scale of its actions, and
a manifest: what made it, from what, and the digest of every file. Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.building import canonical
from configs.checks import ConfigError, check
from configs.schema import ExperimentConfig
from configs.slices import ShippedSlice
from data_pipeline.contract import EnvironmentProblem, StageContext
from data_pipeline.whole_files import file_sha256
from training.base_folder import SCRATCH

SHIPPED = Path(__file__).parent / "tiny_base"
MANIFEST = "manifest.json"
BASE_FOLDER = "base"
BASE_STATISTICS = "tiny_base"
"""What the scale of a tiny base's actions is called in its folder."""
_MEND = "restore it (`git checkout -- training/tiny_base`), or train a base here with model.base=scratch"
_NOT_OF_THE_BASE = {"model": ("base", "revision"), "action": ()}


@dataclass(frozen=True)
class ShippedBase:
    """What the manifest says."""

    folder: Path
    files: Mapping[str, str]  # name -> sha256
    data: Mapping[str, str]  # digests of what it learned from: demonstrations, annotations
    settings: Mapping[str, Mapping[str, Any]]  # `model` and `action`, as in the configuration that made it

    @classmethod
    def read(cls, folder: Path = SHIPPED) -> ShippedBase:
        """Raises EnvironmentProblem where there is none, or where it cannot be read."""
        path = folder / MANIFEST
        if not path.is_file():
            raise EnvironmentProblem(f"{path} is missing: this installation has no tiny base; {_MEND}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, values["files"], values["data"], values["settings"])
        except (ValueError, KeyError) as error:
            raise EnvironmentProblem(f"{path} is damaged ({error}); {_MEND}") from error

    def verify(self) -> None:
        """Raise EnvironmentProblem, naming the file, where a file is not what the manifest says."""
        for name, wanted in self.files.items():
            path = self.folder / name
            found = file_sha256(path) if path.is_file() else "missing"
            if found != wanted:
                raise EnvironmentProblem(
                    f"{path} is damaged (sha256 {found[:16]}, the manifest says {wanted[:16]}); {_MEND}"
                )

    def check_fits(self, config: ExperimentConfig) -> None:
        """Raise ConfigError where a setting of the model or its actions is not that of this base."""
        for group, settings in base_settings(config).items():
            for name, wanted in settings.items():
                found = self.settings[group].get(name, wanted)
                check(
                    found == wanted,
                    f"{group}.{name}={wanted}, and the tiny base that comes with the project has {found}; "
                    f"leave it, or train a base of your own with model.base={SCRATCH}",
                )


def base_settings(config: ExperimentConfig) -> dict[str, dict[str, Any]]:
    """What of a configuration is fixed by a tiny base."""
    groups = {"model": canonical(config.model), "action": canonical(config.action)}
    return {g: {k: v for k, v in values.items() if k not in _NOT_OF_THE_BASE[g]} for g, values in groups.items()}


def run_shipped(config: ShippedSlice, context: StageContext) -> list[str]:
    """Stage `shipped`: the verified files of the tiny base, where adapters look for those of one trained here."""
    shipped = ShippedBase.read()
    if tuple(sorted(shipped.files.items())) != config.files:
        raise ConfigError(f"{SHIPPED} has changed since this was planned; type the command again")
    shipped.verify()
    target = context.work / BASE_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in shipped.files:
        shutil.copyfile(shipped.folder / name, target / name)
    return [BASE_FOLDER]
