"""`nora-ecot doctor`: one line per thing a run needs, with the remedy where it is missing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_pipeline.contract import EnvironmentProblem
from experiment.devices import cuda_devices
from experiment.store import MANIFEST, Damaged, Store
from experiment.worker_handle import worker_environment

EXIT_ENVIRONMENT = 78
MIN_FREE_GB = 5
PACKAGES = {"torch": "", "transformers": "", "peft": "", "mujoco": "3.3.2", "robosuite": "1.4.0", "hf-libero": "0.1.4"}
"""Packages a run needs; where a version is given, another one changes results."""

_FRAME = """
from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.sim.environment import LiberoEnv
env = LiberoEnv(Subset.OBJECT, 0, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
env.reset(seed=0, init_state=0)
assert env.render("agentview").std() > 1
print(env.fingerprint().get("renderer", "software GL"))
env.close()
"""


@dataclass(frozen=True)
class Check:
    """One line. `fatal`: nothing runs without it."""

    name: str
    good: bool
    says: str
    fatal: bool = True

    def line(self) -> str:
        """`ok    python      3.11.7`."""
        mark = "ok" if self.good else ("MISSING" if self.fatal else "note")
        return f"{mark:<8}{self.name:<13}{self.says}"


def main(argv: Sequence[str]) -> int:
    """Print the checks; 78 where something needed is missing. `--oracle`, `--base`: see the modules imported."""
    if "--base" in argv:
        from experiment import base_doctor

        return base_doctor.main(argv)
    if "--oracle" in argv:
        from experiment import oracle

        return oracle.main(argv)
    parser = argparse.ArgumentParser(prog="nora-ecot doctor", allow_abbrev=False)
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--verify", action="store_true", help="read every stored file and compare its digest")
    parser.add_argument("--oracle", action="store_true", help="recorded actions through the deployed path, simulated")
    parser.add_argument("--base", action="store_true", help="the base model, loaded and asked for one action")
    values = parser.parse_args(list(argv))
    checks = [python(), *packages(), frame(), assets(), disk(values.output_dir.expanduser()), cuda()]
    if values.verify:
        checks.append(verify(Store(values.output_dir.expanduser() / ".store")))
    print("\n".join(check.line() for check in checks))
    return EXIT_ENVIRONMENT if any(check.fatal and not check.good for check in checks) else 0


def python() -> Check:
    """The interpreter's version."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check(
        "python", good, f"{platform.python_version()}" if good else f"{sys.version_info[:2]}: use 3.11 to 3.13"
    )


def packages() -> list[Check]:
    """Installed versions."""
    return [_package(name, wanted) for name, wanted in PACKAGES.items()]


def _package(name: str, wanted: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, good=False, says="not installed; run `make setup`")
    good = wanted in ("", found)
    return Check(name, good, found if good else f"{found}, not {wanted}: results differ; run `make setup`")


def frame() -> Check:
    """One rendered frame, in a child: a broken GL can end the process."""
    command = [sys.executable, "-P", "-c", _FRAME]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=worker_environment()
        )
    except subprocess.TimeoutExpired:
        return Check("rendering", good=False, says="no frame after 120 s; try MUJOCO_GL=osmesa")
    if done.returncode == 0:
        return Check("rendering", good=True, says=done.stdout.strip().splitlines()[-1])
    reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return Check(
        "rendering", good=False, says=f"{reason} (Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri)"
    )


def assets() -> Check:
    """Official LIBERO assets, which the study itself needs and the tiny preset does not."""
    from data_pipeline.sim.assets import find_official, resolve

    try:
        found = find_official()
        if found is not None:
            return Check("assets", good=True, says=f"official: {found}")
        resolve("official")
    except EnvironmentProblem as problem:
        return Check("assets", good=False, says=str(problem), fatal=False)
    return Check("assets", good=True, says="official")


def disk(folder: Path) -> Check:
    """Free space where the results go."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    writable = os.access(existing, os.W_OK)
    says = (
        f"{free_gb:.0f} GB free at {existing}" if writable else f"{existing} is not writable; name another --output_dir"
    )
    return Check("disk", writable and free_gb >= MIN_FREE_GB, says)


def cuda() -> Check:
    """Devices; without one the tiny preset is chosen."""
    count = cuda_devices()
    return Check("cuda", count > 0, f"{count} device(s)" if count else "none: preset=auto means tiny", fatal=False)


def verify(store: Store) -> Check:
    """Every stored file against its manifest's digest."""
    entries = sorted(store.root.glob(f"*/*/{MANIFEST}"))
    damaged: list[str] = []
    for path in entries:
        try:
            store.manifest(path.parent.parent.name, path.parent.name, verify=True)
        except Damaged as damage:
            damaged.append(str(damage))
    if damaged:
        return Check("store", good=False, says=f"{damaged[0]} ({len(damaged)} damaged); delete it and run again")
    return Check("store", good=True, says=f"{len(entries)} entries verified")
