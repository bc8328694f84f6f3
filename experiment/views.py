"""Published views: the folders people look at, as hard links of the store's files.

A marker in the store remembers what was published where. A published file that has since been deleted means that
the user wants the stage done again; one that merely differs is linked anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from data_pipeline.whole_files import file_sha256, write_synced
from experiment.files import environment_errors, link_tree
from experiment.stages import StageNode, canonical_json
from experiment.store import Manifest, Store


@dataclass(frozen=True)
class View:
    """A finished stage shown in a folder. `redo`: deleting it asks for the stage to run again."""

    node: StageNode
    folder: Path
    redo: bool = True
    group: str = ""  # views of one group may share a table
    note: str = ""  # text of a small file that says where the folder's content comes from; "" writes none


class ViewState(Enum):
    """What is found where a view belongs."""

    CURRENT = "current"
    STALE = "stale"  # not published yet, or another content
    DELETED = "deleted"  # published once, then removed by somebody


@dataclass(frozen=True)
class Marker:
    """What was last published in a folder."""

    stage: str
    key: str
    slug: str
    folder: str  # relative to the output directory where it lies inside
    files: tuple[str, ...]
    group: str = ""


NOTE_FILE = ".nora_ecot.json"
"""In data folders that this project wrote: where the demonstrations come from."""


def state(store: Store, view: View, manifest: Manifest) -> ViewState:
    """Compare a view's folder with the finished stage."""
    marker = read_marker(store, view.folder)
    if marker is None or marker.key != manifest.key:
        return ViewState.STALE
    if any(not (view.folder / name).exists() for name in manifest.files):
        return ViewState.DELETED
    entry = store.entry(manifest.stage, manifest.key)
    same = all(_same_file(view.folder / name, entry / name) for name in manifest.files)
    return ViewState.CURRENT if same else ViewState.STALE


def publish(store: Store, view: View, manifest: Manifest) -> None:
    """Link a finished stage's files into the view's folder, replacing what was published there before.

    The marker is removed first and written last: a crash in between means publishing again, never a redone stage.
    Files of others in the folder are left alone. Raises EnvironmentProblem on a full disk.
    """
    with environment_errors():
        earlier = read_marker(store, view.folder)
        marker_path(store, view.folder).unlink(missing_ok=True)
        for name in earlier.files if earlier else ():
            if name not in manifest.files:
                (view.folder / name).unlink(missing_ok=True)
        entry = store.entry(manifest.stage, manifest.key)
        for name in manifest.files:
            replace_file(entry / name, view.folder / name)
        if view.note:
            write_synced(view.folder / NOTE_FILE, view.note + "\n")
        write_marker(store, view, manifest)


def replace_file(source: Path, target: Path, *, copy_below: int = 0) -> None:
    """Put a hard link of a file at `target`, atomically; a copy of one smaller than `copy_below` bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    link_tree(source, temporary, copy_below=copy_below)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # rename(2) does nothing between two links of one file


def read_marker(store: Store, folder: Path) -> Marker | None:
    """What was last published in a folder, None when nothing was."""
    return _parse_marker(marker_path(store, folder))


def markers(store: Store) -> Iterator[tuple[Path, Marker]]:
    """(folder, marker) of every published view of the store."""
    for path in sorted(store.root.glob("published/*.json")):
        if (marker := _parse_marker(path)) is not None:
            yield (store.root.parent / marker.folder).resolve(), marker


def write_marker(store: Store, view: View, manifest: Manifest) -> None:
    """Remember what is published in a view's folder."""
    path = marker_path(store, view.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "stage": manifest.stage,
        "key": manifest.key,
        "slug": view.node.spec.slug,
        "folder": _relative(store, view.folder),
        "files": sorted(manifest.files),
        "group": view.group,
    }
    write_synced(path, canonical_json(fields) + "\n")


def marker_path(store: Store, folder: Path) -> Path:
    """Where the marker of a folder lies. The name is a digest, because folder names can be long."""
    name = hashlib.sha256(_relative(store, folder).encode()).hexdigest()[:20]
    return store.root / "published" / f"{name}.json"


def _parse_marker(path: Path) -> Marker | None:
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(str(name) for name in fields.pop("files"))
        return Marker(**fields, files=files)
    return None


def _relative(store: Store, folder: Path) -> str:
    """Relative to the output directory where possible, so that the whole directory can be moved."""
    inside, root = folder.resolve(), store.root.parent.resolve()
    return inside.relative_to(root).as_posix() if inside.is_relative_to(root) else inside.as_posix()


def _same_file(shown: Path, stored: Path) -> bool:
    """Same inode, or equal content (a copied output directory has no links any more)."""
    a, b = shown.stat(), stored.stat()
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
        return True
    return a.st_size == b.st_size and file_sha256(shown) == file_sha256(stored)
