"""`nora-ecot download`: what it says, and fetching from a hub that is a small server on this machine."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.choices import STUDY, Subset
from data_pipeline.libero_utils import demo_file, task_names
from experiment.cli import main
from experiment.download import ARCHIVES, DATA_REPOSITORY
from tests.helpers.synthetic import write_synthetic_subset

ROOT = Path(__file__).parents[2]
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as `snapshot_download` asks for, over the files of a folder."""

    root: Path
    forbidden = ""  # part of a path that is refused
    sent: list[str] = []  # noqa: RUF012 - what was downloaded, of all requests

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/datasets/{DATA_REPOSITORY}/revision/"):
            self.answer(json.dumps({"id": DATA_REPOSITORY, "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/datasets/{DATA_REPOSITORY}/tree/{COMMIT}":
            files = [p for p in sorted(self.root.rglob("*")) if p.is_file()]
            entries = [
                {"type": "file", "path": p.relative_to(self.root).as_posix(), "size": p.stat().st_size, "oid": oid(p)}
                for p in files
            ]
            self.answer(json.dumps(entries).encode())
        else:
            self.file(path)

    do_HEAD = do_GET

    def file(self, path):
        name = path.partition(f"/datasets/{DATA_REPOSITORY}/resolve/{COMMIT}/")[2]
        if not name or (self.forbidden and self.forbidden in name):
            self.send_error(403)
            return
        if self.command == "GET":
            self.sent.append(name)
        found = self.root / name
        self.answer(found.read_bytes(), {"ETag": f'"{oid(found)}"', "X-Repo-Commit": COMMIT})

    def answer(self, content, headers=None):
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *values):
        pass


def oid(path):
    return sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(root, forbidden=""):
    """A hub over a folder: its address, and the names of the files that it sent."""
    handler = type("OneHub", (Hub,), {"root": root, "forbidden": forbidden, "sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.sent
    finally:
        server.shutdown()
        server.server_close()


def download(endpoint, data_dir, *more):
    """The command in a process of its own: the hub's library reads its address when it is imported."""
    place = [] if "--assets" in more else ["--data_dir", str(data_dir)]
    command = [sys.executable, "-m", "experiment.cli", "download", "--use-hub", *place, *more]
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(data_dir.parent / "hub"), "NO_PROXY": "127.0.0.1",
        "HOME": str(data_dir.parent), "LIBERO_ASSETS_PATH": "",
    }  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def repository(tmp_path):
    """Two files of long, one of object, and what else such a repository holds."""
    root = tmp_path / "repository"
    write_synthetic_subset(root / "libero_10", Subset.LONG, tasks=(5, 6), demos=2, steps=4, size=8)
    write_synthetic_subset(root / "libero_object", Subset.OBJECT, tasks=(0,), demos=1, steps=4, size=8)
    (root / "README.md").write_text("# LIBERO")
    return root


def test_fetches_one_suite_and_nothing_twice(repository, tmp_path):
    data = tmp_path / "my data"
    with serving(repository) as (endpoint, sent):
        first = download(endpoint, data, "--subset", "long")
        assert first.returncode == 0, first.stderr
        assert re.search(r"fetching 2 of 2 files, 0\.00 GB, into", first.stdout)
        assert f"found: 2 of 10 tasks, 4 demonstrations in {data / 'libero_10'}" in first.stdout
        assert sorted(sent) == sorted(f"libero_10/{demo_file(data, Subset.LONG, task).name}" for task in (5, 6))
        assert not (data / "libero_object").exists()
        again = download(endpoint, data, "--subset", "long")
        assert "fetching 0 of 2 files" in again.stdout
        assert len(sent) == 2


def test_an_interrupted_download_resumes(repository, tmp_path):
    data, late = tmp_path / "data", task_names(Subset.LONG)[6]
    with serving(repository, forbidden=late) as (endpoint, sent):
        cut = download(endpoint, data, "--subset", "long")
        assert cut.returncode == 78
        assert "The same command resumes. By hand, where there is a network: hf download" in cut.stderr
        assert "Traceback" not in cut.stderr
    with serving(repository) as (endpoint, sent):
        done = download(endpoint, data, "--subset", "long")
        assert done.returncode == 0, done.stderr
        assert any(late in name for name in sent)
        assert len(sent) <= 2
    assert demo_file(data / "libero_10", Subset.LONG, 6).is_file()


@pytest.mark.parametrize("more", [["--subset", "goal"], ["--assets"]])
def test_without_a_network_the_address_and_the_manual_way(tmp_path, more):
    done = download("http://127.0.0.1:9", tmp_path / "data", *more)
    assert done.returncode == 78
    assert "error: cannot fetch http://127.0.0.1:9/datasets/" in done.stderr
    assert "hf download" in done.stderr
    assert not (tmp_path / "data").exists()


def test_says_where_the_files_come_from_and_what_is_here(tmp_path, capsys):
    write_synthetic_subset(tmp_path / "libero_long", Subset.LONG, tasks=(5,), demos=3, steps=4, size=8)
    assert main("download", ["--data_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for subset in STUDY:
        assert ARCHIVES[subset] in said
        assert all(f"{name}_demo.hdf5" in said for name in task_names(subset))
    assert f"huggingface.co/datasets/{DATA_REPOSITORY}/tree/main/libero_10" in said
    assert f"found: 1 of 10 tasks, 3 demonstrations in {tmp_path / 'libero_long'}" in said


def test_the_addresses_are_those_of_liberos_own_package():
    (source,) = Path(sys.prefix).glob("lib/*/site-packages/libero/libero/utils/download_utils.py")
    text = source.read_text()
    links = dict(re.findall(r'"(libero_\w+)": "(https://\S+)"', text))
    expected = {f"libero_{s.value}" if s is not Subset.LONG else "libero_100": url for s, url in ARCHIVES.items()}
    assert links == expected
    assert f'HF_REPO_ID = "{DATA_REPOSITORY}"' in text


def test_a_damaged_file_is_named(tmp_path, capsys):
    (tmp_path / "libero_goal").mkdir()
    (tmp_path / "libero_goal" / "task1.hdf5").write_text("<html>Sign in</html>")
    assert main("download", ["--subset", "goal", "--data_dir", str(tmp_path)]) == 78
    assert "task1.hdf5: it is a web page" in capsys.readouterr().err


def test_a_complete_set_of_assets_is_not_fetched_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("experiment.download.find_official", lambda: tmp_path)
    monkeypatch.setattr("experiment.download.fetch", lambda *wanted: pytest.fail(f"fetched {wanted}"))
    assert main("download", ["--assets", "--use-hub"]) == 0
    assert f"found: {tmp_path}" in capsys.readouterr().out


def test_flags_that_contradict(capsys):
    assert main("download", ["--assets", "--subset", "goal"]) == 2
    assert main("download", ["--assets", "--data_dir", "elsewhere"]) == 2
    assert "LIBERO_ASSETS_PATH names a set elsewhere" in capsys.readouterr().err
    assert main("download", ["--subset", "gaol"]) == 2
    assert "did you mean 'goal'?" in capsys.readouterr().err
