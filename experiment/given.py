"""Annotations that a user gives in place of a stage's output: of this project or of embodied-CoT."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from configs.checks import ConfigError
from configs.choices import Component, Subset
from data_pipeline.whole_files import file_sha256
from experiment.files import environment_errors
from experiment.stages import StageNode, stored_node
from experiment.store import Store

ANNOTATIONS = "annotations.json"
_AUTHORS = ("annotate", "reword")


@dataclass(frozen=True)
class Given:
    """An input of training, and what to say about it."""

    node: StageNode
    absent: tuple[Component, ...] = ()  # components that none of its steps has
    said: tuple[str, ...] = ()


def annotations_given(store: Store, path: Path, subset: Subset, own: StageNode) -> Given:
    """Annotations by path; a layout of embodied-CoT is converted. Raises ConfigError that names what does not fit."""
    if is_own(store, path, ANNOTATIONS, own, "generate_ecot"):
        return Given(own)
    if _is_made_here(store, path):
        return Given(_imported(store, path, ANNOTATIONS, path.name))
    from data_pipeline.annotation_schema import check_annotations  # pydantic: only for files that people made
    from data_pipeline.ecot_import import import_annotations, is_ours, read_tree
    from data_pipeline.sidecar import save_annotations

    tree = read_tree(path)
    if is_ours(tree):
        check_annotations(path, tree)
        return Given(_imported(store, path, ANNOTATIONS, path.name))
    found = import_annotations(path, tree, subset)
    with environment_errors(), tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / ANNOTATIONS
        save_annotations(converted, found.annotations, files=found.files)
        node = _imported(store, converted, ANNOTATIONS, path.name)
    return Given(node, found.absent, tuple(found.lines()))


def is_own(store: Store, path: Path, inside: str, own: StageNode, script: str) -> bool:
    """Whether the project's own stage made exactly these bytes. Raises ConfigError where there is no such file."""
    if not path.is_file():
        wrong = "is a folder; name a file, or" if path.is_dir() else "does not exist;"
        raise ConfigError(
            f"{path} {wrong} make it with `python scripts/{script}.py --subset {own.spec.slug} --output "
            f"{path / 'labels.json' if path.is_dir() else path}`"
        )
    made = store.whole(own.stage, own.key)
    return made is not None and made.files[inside]["sha256"] == file_sha256(path)


def _is_made_here(store: Store, path: Path) -> bool:
    """Whether some stage of this store wrote these bytes: another model's rewording, say."""
    wanted = file_sha256(path)
    entries = [(stage, entry.name) for stage in _AUTHORS for entry in (store.root / stage).glob("*")]
    found = (store.whole(*entry) for entry in entries)
    return any(made is not None and made.files[ANNOTATIONS]["sha256"] == wanted for made in found)


def _imported(store: Store, path: Path, inside: str, slug: str) -> StageNode:
    key, _ = store.import_path(path, inside, slug)
    return stored_node("file", slug, key)
