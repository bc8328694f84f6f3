"""Wherever a run dies, the same run afterwards gives the same files, bit for bit.

A toy study (three stages, a published view) runs through the real store. A child process dies just before or just
after its n-th change of the file system, for every n; then the study runs again and everything visible is compared
with an uninterrupted run.
"""

import builtins
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from experiment.stages import topological
from experiment.store import MANIFEST, Store, provenance
from experiment.views import View, ViewState, publish, state
from tests.helpers.toy_stages import node

CRASH_EXIT = 137


class CrashPoints:
    """Counts changes of the file system and ends the process at one of them."""

    def __init__(self, crash_at):
        self.crash_at = crash_at
        self.count = 0

    def point(self):
        self.count += 1
        if self.count == self.crash_at:
            os._exit(CRASH_EXIT)

    def around(self, function):
        def wrapped(*args, **kwargs):
            self.point()
            result = function(*args, **kwargs)
            self.point()
            return result

        return wrapped

    def install(self):
        """Only in a child process: nothing is undone."""
        for name in ("rename", "replace", "fsync", "mkdir", "link", "unlink", "rmdir"):
            setattr(os, name, self.around(getattr(os, name)))
        real_open = io.open

        def opening(file, mode="r", *args, **kwargs):
            if any(letter in mode for letter in "wax+"):
                return self.around(real_open)(file, mode, *args, **kwargs)
            return real_open(file, mode, *args, **kwargs)

        builtins.open = opening
        io.open = opening


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


def in_child(root, crash_at):
    """Run in a forked child. Returns (exit status, number of points passed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        points = CrashPoints(crash_at)
        points.install()
        run(root)
        os.write(writer, str(points.count).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return os.waitstatus_to_exitcode(status), int(answer.read() or 0)


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


def test_every_crash_point(fast_disk):
    provenance()  # asks git; cached, so that the children do not
    reference = fast_disk / "reference"
    code, points = in_child(reference, 0)
    assert code == 0
    assert points > 100
    expected = visible(reference)
    assert "shown/result.txt" in expected
    for crash_at in range(1, points + 1):
        root = fast_disk / "crash"
        code, _ = in_child(root, crash_at)
        assert code == CRASH_EXIT, f"point {crash_at}: exit {code}"
        assert run(root) is not ViewState.DELETED, f"point {crash_at}: reads as deleted by a person"
        assert visible(root) == expected, f"point {crash_at}"
        assert run(root) is ViewState.CURRENT
        shutil.rmtree(root)
