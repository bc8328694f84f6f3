"""The content-addressed store: `<output_dir>/.store/<stage>/<key>/` holds a finished stage, its manifest written last.

Only a folder with a valid manifest counts. A stage works in `tmp/<key>`, a stable name, so that a killed attempt is
resumed. When it returns, its declared outputs are linked aside, synced, described by `manifest.json` and renamed into
place: a crash at any point leaves either no entry or a whole one. Locks only save double work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.contract import Interrupted, StageContext
from data_pipeline.whole_files import file_sha256, sync, write_synced
from experiment.files import describe_file, describe_files, environment_errors, link_tree, output_digest, sync_tree
from experiment.provenance import provenance
from experiment.stages import StageSpec, canonical_json, digest, load

MANIFEST = "manifest.json"
EAGER_DIGEST_BYTES = 2_000_000  # files up to this size are verified by digest on every look, larger ones by size
COPY_BYTES = 64_000_000  # imported files up to this size are copied, so that editing the original harms nothing
LOCK_POLL_S = 0.2


class Damaged(Exception):
    """A store entry does not match its manifest."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says about itself. `output` is the digest of all files' digests."""

    stage: str
    key: str
    slug: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]  # name -> {stage, key, output}
    files: Mapping[str, Mapping[str, Any]]  # relative path -> {size, sha256}
    output: str
    seconds: float
    provenance: Mapping[str, str]  # commit, lock: recorded, never compared
    remarks: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of the stage; never compared


class Store:
    """One output directory's store. Raises EnvironmentProblem when the folder cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folder. Raises EnvironmentProblem, before anything ran, where it cannot be written."""
        with environment_errors():
            (self.root / "logs").mkdir(parents=True, exist_ok=True)
            probe = self.root / f"probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()

    def entry(self, stage: str, key: str) -> Path:
        """Folder of a finished stage, whether it exists or not."""
        return self.root / stage / key

    def work(self, key: str) -> Path:
        """Folder in which a stage works."""
        return self.root / "tmp" / key

    def manifest(self, stage: str, key: str, *, verify: bool = False) -> Manifest | None:
        """The manifest of a finished stage, None when there is none. Raises Damaged when the files differ from it."""
        folder = self.entry(stage, key)
        manifest = read_manifest(folder)
        if manifest is not None:
            _check_files(folder, manifest, verify=verify)
        elif folder.exists():
            raise Damaged(f"{folder}: no readable {MANIFEST}")
        return manifest

    def whole(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a finished, undamaged stage, else None."""
        try:
            return self.manifest(stage, key)
        except Damaged:
            return None

    def manifests(self, stage: str) -> list[tuple[float, Manifest]]:
        """(finish time, manifest) of every entry of a stage, newest first; files are not looked at."""
        found = [(path.stat().st_mtime, read_manifest(path.parent)) for path in self.root.glob(f"{stage}/*/{MANIFEST}")]
        return sorted(((t, m) for t, m in found if m is not None), key=lambda pair: -pair[0])

    def is_partial(self, key: str) -> bool:
        """Whether an earlier attempt left work to resume."""
        work = self.work(key)
        return work.is_dir() and any(work.iterdir())

    def discard(self, stage: str, key: str) -> None:
        """Forget a finished stage and any unfinished work of it."""
        if self.entry(stage, key).exists():
            trash = self.root / "tmp" / f"old-{uuid.uuid4().hex}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.entry(stage, key), trash)
        shutil.rmtree(self.work(key), ignore_errors=True)
        self.sweep()

    def reopen(self, stage: str, key: str) -> None:
        """Make a finished stage unfinished work again: its next attempt finds its outputs and may go on from them."""
        work = self.work(key)
        shutil.rmtree(work, ignore_errors=True)
        work.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.entry(stage, key), work)

    def set_aside(self, stage: str, key: str) -> Path:
        """Move a damaged entry out of the way, for a person to look at. Returns where it went."""
        aside = self.root / "damaged" / f"{stage}-{key}-{uuid.uuid4().hex[:8]}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.entry(stage, key), aside)
        return aside

    def sweep(self) -> None:
        """Delete what discarding left behind."""
        for trash in self.root.glob("tmp/old-*"):
            shutil.rmtree(trash, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str, stop_requested: Callable[[], bool], waiting: Callable[[], None]) -> Generator[None]:
        """Hold the stage's lock. While another run has it, call `waiting` and poll. Raises Interrupted on a stop."""
        path = self.root / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as handle:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if stop_requested():
                    raise Interrupted
                waiting()
                time.sleep(LOCK_POLL_S)
            yield

    def run(
        self,
        spec: StageSpec,
        report: Callable[[int, int, str], None] = lambda done, total, note: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> Manifest:
        """Run one stage unless its entry is there; return its manifest.

        Raises what the stage raises; EnvironmentProblem for a full or read-only disk.
        """
        with environment_errors(), self.lock(spec.key, stop_requested, lambda: report(0, 0, "another run has it")):
            if (found := self.whole(spec.stage, spec.key)) is not None:
                return found
            if self.entry(spec.stage, spec.key).exists():
                self.set_aside(spec.stage, spec.key)
            return self._build(spec, report, stop_requested)

    def _build(
        self, spec: StageSpec, report: Callable[[int, int, str], None], stop_requested: Callable[[], bool]
    ) -> Manifest:
        inputs = {name: self._finished(ref.stage, ref.key) for name, ref in spec.inputs.items()}
        folders = {name: self.entry(ref.stage, ref.key) for name, ref in spec.inputs.items()}
        work = self.work(spec.key)
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        function = load(spec.function)
        context = StageContext(work, folders, report, stop_requested)
        outputs = function(spec.build_config(), context)
        described = {
            "stage": spec.stage,
            "key": spec.key,
            "slug": spec.slug,
            "version": spec.version,
            "config": spec.key_config,
            "inputs": {name: {"stage": m.stage, "key": m.key, "output": m.output} for name, m in inputs.items()},
            "provenance": provenance(),
            "remarks": context.remarks,
        }
        return self._commit(work, outputs, described, time.monotonic() - started)

    def _finished(self, stage: str, key: str) -> Manifest:
        manifest = self.manifest(stage, key)
        if manifest is None:
            raise FileNotFoundError(f"{self.entry(stage, key)} is not built yet; run its stage first")
        return manifest

    def _commit(self, work: Path, outputs: list[str], described: dict[str, Any], seconds: float) -> Manifest:
        """Link the declared outputs aside, sync them, write the manifest, rename into place, drop the work folder."""
        aside = work.with_name(f"{work.name}.out")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name in outputs:
            link_tree(_inside(work, name), aside / name)
        files = describe_files(aside)
        manifest = Manifest(files=files, output=output_digest(files), seconds=round(seconds, 3), **described)
        sync_tree(aside)
        write_synced(aside / MANIFEST, canonical_json(asdict(manifest)) + "\n")
        target = self.entry(manifest.stage, manifest.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(aside, target)
        except OSError as problem:  # a file system without locks let another run be first: its entry is as good
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(aside)
        sync(target.parent)
        shutil.rmtree(work, ignore_errors=True)
        return self._finished(manifest.stage, manifest.key)

    def import_path(self, path: Path, name: str, slug: str) -> tuple[str, Manifest]:
        """Bring a user's file or folder into the store as `file/<key>/<name>`, named by content. Returns its key.

        Of a folder with an empty name, the files become `file/<key>/...` themselves.
        """
        with environment_errors():
            files = describe_files(path) if path.is_dir() else {"": describe_file(path)}
            key = digest({"name": name, "files": {rel: info["sha256"] for rel, info in files.items()}})[:20]
            if (found := self.whole("file", key)) is not None:
                return key, found
            if self.entry("file", key).exists():
                self.set_aside("file", key)
            work = self.work(key)
            shutil.rmtree(work, ignore_errors=True)
            parts = {name: path} if name else {part.name: part for part in sorted(path.iterdir())}
            work.mkdir(parents=True)
            for part, source in parts.items():
                link_tree(source, work / part, copy_below=COPY_BYTES)
            described = {"stage": "file", "key": key, "slug": slug, "version": 1, "config": {}, "inputs": {}}
            return key, self._commit(work, list(parts), {**described, "provenance": {}}, 0.0)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None when it is absent or not one."""
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError, TypeError):
        return None


def _inside(work: Path, name: str) -> Path:
    path = (work / name).resolve()
    if not path.is_relative_to(work.resolve()) or name in ("", ".", MANIFEST):
        raise ValueError(f"a stage declared {name!r} as output; outputs lie inside its work folder")
    if not path.exists():
        raise FileNotFoundError(f"a stage declared {name!r} as output and did not write it")
    return path


def _check_files(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    for name, info in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(f"{path} is missing") from None
        if size != info["size"]:
            raise Damaged(f"{path} has {size} bytes instead of {info['size']}")
        if (verify or size <= EAGER_DIGEST_BYTES) and file_sha256(path) != info["sha256"]:
            raise Damaged(f"{path} does not have the content its manifest names")
