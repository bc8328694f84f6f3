"""Wherever a run dies, the same run afterwards gives the same files, bit for bit.

A toy study (three stages, a published view) runs through the real store. A child process dies just before or just
after its n-th change of the file system, for every n; then the study runs again and everything visible is compared
with an uninterrupted run.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from experiment.provenance import provenance
from experiment.stages import topological
from experiment.store import MANIFEST, Store
from experiment.views import View, ViewState, publish, state
from tests.helpers.crash_points import CRASH_EXIT, in_child
from tests.helpers.toy_stages import node


def study(root):
    a = node("a", {"steps": 2})
    b = node("b", {"steps": 1, "add": 5}, {"a": a})
    c = node("c", {"steps": 1}, {"a": a, "b": b})
    return a, View(c, root / "shown")


def run(root):
    """The driver's order of work, in one process. Returns how many stages it found unpublished or unbuilt."""
    store = Store(root / ".store")
    _, view = study(root)
    for stage in topological([view.node]):
        store.run(stage.spec)
    manifest = store.manifest("toy", view.node.key)
    seen = state(store, view, manifest)
    if seen is not ViewState.CURRENT:
        publish(store, view, manifest)
    return seen


def visible(root):
    """Path -> content of all that counts: finished entries, markers, published files. Manifests without timings.

    Hidden temporary files (`.x.tmp`) of a killed process may stay; nothing reads them.
    """
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if name.startswith((".store/tmp/", ".store/locks/")) or (path.name.startswith(".") and path.suffix == ".tmp"):
            continue
        content = path.read_bytes()
        if path.name == MANIFEST:
            content = {k: v for k, v in json.loads(content).items() if k != "seconds"}
        found[name] = content
    return found


@pytest.fixture
def fast_disk(tmp_path):
    """A folder in memory where there is one: the sweep syncs thousands of files."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])  # odd: before and after in turn
def test_every_crash_point(fast_disk, stride):
    provenance()  # asks git; cached, so that the children do not
    reference = fast_disk / "reference"
    code, points = in_child(lambda: run(reference), 0)
    assert code == 0
    assert points > 100
    expected = visible(reference)
    assert "shown/result.txt" in expected
    for crash_at in range(1, points + 1, stride):
        root = fast_disk / "crash"
        code, _ = in_child(lambda root=root: run(root), crash_at)
        assert code == CRASH_EXIT, f"point {crash_at}: exit {code}"
        assert run(root) is not ViewState.DELETED, f"point {crash_at}: reads as deleted by a person"
        assert visible(root) == expected, f"point {crash_at}"
        assert run(root) is ViewState.CURRENT
        shutil.rmtree(root)
