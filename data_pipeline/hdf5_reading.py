"""Open LIBERO's HDF5 files and read one key of one demonstration; every fault names file, demonstration and key.

A file that cannot be used at all (missing, truncated, a web page) is an EnvironmentProblem: fetch it again. Wrong
content is a ConfigError. Nothing is read before it is asked for, and no file stays open.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from configs.checks import ConfigError
from configs.choices import STUDY, Subset
from data_pipeline.contract import ACTION_DIM, EnvironmentProblem
from data_pipeline.hdf5_layout import IMAGE_KEYS, SUFFIX
from data_pipeline.libero_utils import SUITE_OF, has_scene_prefix, task_in_words, task_names

FETCH_AGAIN = "download it again (`nora-ecot download` says from where), or make it again"

_NOT_HDF5 = {
    b"version https://git-lfs": "it is a git-LFS pointer, not the data: `git lfs pull` there fetches the file itself",
    b"<": "it is a web page, not the data: the link led to a login or an error page",
    b"PK\x03\x04": "it is a zip archive: unpack it",
}
"""How files begin that people save under an HDF5 file's name, and what they are."""


@contextmanager
def open_hdf5(path: Path) -> Generator[h5py.File]:
    """Open for reading. Raises EnvironmentProblem on a file that is missing, truncated or damaged, then or later."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # locks fail on some network disks, and nobody writes
            yield file
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {path}: {_why_unreadable(path, error)}") from error


def _why_unreadable(path: Path, error: OSError) -> str:
    if not path.is_file():
        return f"no such file; {FETCH_AGAIN}"
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    known = next((what for mark, what in _NOT_HDF5.items() if start.startswith(mark)), None)
    return known or f"{path.stat().st_size} bytes, truncated or damaged ({error}); {FETCH_AGAIN}"


# ------------------------------------------------------------------ which task a file is of


def task_files(folder: Path, subset: Subset) -> dict[int, Path]:
    """Task id -> file, for every ``*.hdf5`` of a folder, whatever it is called. {} where there is none.

    Raises ConfigError for a file of no task of the subset and for two files of one task.
    """
    found: dict[int, Path] = {}
    for path in sorted(p for p in folder.glob("*.hdf5") if not p.name.startswith(".")):
        task = task_of_file(path, subset)
        if task in found:
            name = task_names(subset)[task]
            raise ConfigError(f"{found[task]} and {path} both hold the task {name}; remove one of them")
        found[task] = path
    return dict(sorted(found.items()))


def task_of_file(path: Path, subset: Subset) -> int:
    """Task id of a file: as its name says, else its attribute bddl_file_name, else its instruction.

    Raises ConfigError where that is no task of the subset, naming the suite it belongs to.
    """
    stem = path.name.removesuffix(".hdf5").removesuffix("_demo")
    by_name = task_in_words(subset, stem)
    if by_name is not None:
        return by_name
    names = [stem] if _suite_of(stem) else [stem, *_names_inside(path)]
    found = next((task for name in names if (task := task_in_words(subset, name)) is not None), None)
    if found is not None:
        return found
    suite = next((suite for name in names if (suite := _suite_of(name))), "")
    belongs = f"it is of {suite}" if suite else f"neither its name nor its attributes name one ({', '.join(names)})"
    raise ConfigError(
        f"{path} is not of a task of {SUITE_OF[subset]}: {belongs}. Move it out of the folder, or call it "
        f"<task>{SUFFIX}"
    )


def _names_inside(path: Path) -> list[str]:
    """What the attributes of `data` call the task: the BDDL file's stem, then the sentence."""
    with open_hdf5(path) as file:
        attributes = data_attributes(file)
    stem = Path(read_text(attributes.get("bddl_file_name", ""))).stem
    if has_scene_prefix(stem):
        return [stem]  # libero_90 shares sentences with the four suites
    sentence = json_attribute(attributes, "problem_info", f"{path}: data").get("language_instruction", "")
    return [name for name in (stem, str(sentence)) if name]


def _suite_of(name: str) -> str:
    return next((SUITE_OF[s] for s in STUDY if task_in_words(s, name) is not None), "")


def check_name_agrees(path: Path, task_name: str, attributes: dict[str, Any]) -> None:
    """Raise ConfigError where a file's own bddl_file_name is another known task than the one it is read as."""
    stem = Path(read_text(attributes.get("bddl_file_name", ""))).stem
    known = any(stem in task_names(subset) for subset in STUDY)
    if known and stem != task_name:
        raise ConfigError(f"{path} is named after the task {task_name} and holds {stem}; rename it to {stem}{SUFFIX}")


# ------------------------------------------------------------------ attributes


def data_attributes(file: h5py.File) -> dict[str, Any]:
    """Attributes of the group ``data``; {} without one."""
    return dict(file["data"].attrs) if "data" in file else {}


def read_text(value: Any) -> str:
    """An attribute as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def json_attribute(attributes: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A JSON object; {} where there is none. Raises ConfigError with `where` and the attribute's name."""
    try:
        return json.loads(read_text(attributes.get(name, "{}")))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: attribute {name} is not JSON ({error})") from error


# ------------------------------------------------------------------ demonstrations


def list_demos(path: Path) -> list[int]:
    """Numbers of the demonstrations in a file, sorted. Raises ConfigError where there is none."""
    with open_hdf5(path) as file:
        data = file.get("data")
        names = list(data) if isinstance(data, h5py.Group) else []
    demos = sorted(int(name.removeprefix("demo_")) for name in names if name.removeprefix("demo_").isdigit())
    if not demos:
        raise ConfigError(f"{path}: no demonstrations (groups data/demo_0, data/demo_1, ...) in this file")
    return demos


def demo_group(file: h5py.File, demo: int) -> h5py.Group:
    """Group ``data/demo_<demo>``. Raises ConfigError where there is none."""
    group = file.get(f"data/demo_{demo}")
    if not isinstance(group, h5py.Group):
        raise ConfigError(f"{file.filename}: data/demo_{demo} is missing")
    return group


def read_numbers(group: h5py.Group, key: str, width: int | None = None, steps: int | None = None) -> np.ndarray:
    """A whole numeric data set [T, n], T > 0, finite. Raises ConfigError that names file, demonstration and key."""
    where, item = _named(group, key)
    values = item[()]
    if values.dtype.kind not in "fiu" or values.ndim != 2 or (width is not None and values.shape[1] != width):
        raise ConfigError(f"{where} is {values.dtype} {list(values.shape)}; expected numbers [T, {width or 'n'}]")
    if len(values) == 0:
        raise ConfigError(f"{where} is empty; remove this demonstration or make the file again")
    _check_steps(where, len(values), steps)
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ConfigError(f"{where} has a value that is not finite at step {row}; remove this demonstration")
    return values


def read_actions(group: h5py.Group) -> np.ndarray:
    """[T, 7], checked to lie in [-1, 1]."""
    actions = read_numbers(group, "actions", ACTION_DIM)
    outside = np.argwhere(np.abs(actions) > 1 + 1e-6)
    if len(outside):
        step, dimension = outside[0].tolist()
        raise ConfigError(
            f"{group.file.filename}: {group.name}/actions is {actions[step, dimension]:g} at step {step}, dimension "
            f"{dimension}; allowed: -1 to 1 (OSC pose deltas, then the gripper)"
        )
    return actions


def image_dataset(group: h5py.Group, camera: str, steps: int | None = None) -> h5py.Dataset:
    """The images of a camera, uint8 [T, H, W, 3], ImageFrame.GL, checked but not read."""
    where, item = _named(group, f"obs/{IMAGE_KEYS[camera]}")
    if item.dtype != np.uint8 or item.ndim != 4 or item.shape[3] != 3:
        raise ConfigError(f"{where} is {item.dtype} {list(item.shape)}; expected uint8 [T, H, W, 3]")
    _check_steps(where, len(item), steps)
    return item


def _named(group: h5py.Group, key: str) -> tuple[str, h5py.Dataset]:
    where = f"{group.file.filename}: {group.name}/{key}"
    item = group.get(key)
    if not isinstance(item, h5py.Dataset):
        present = ", ".join(group)
        raise ConfigError(f"{where} is missing (present: {present}); remove this demonstration or make the file again")
    return where, item


def _check_steps(where: str, found: int, steps: int | None) -> None:
    if steps is not None and found != steps:
        raise ConfigError(f"{where} has {found} rows where actions has {steps}")
