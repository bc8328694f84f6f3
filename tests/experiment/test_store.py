import json
import os

import pytest

from experiment.stages import StageSpec
from experiment.store import Damaged, Store
from tests.helpers.toy_stages import node


def run(store, target):
    for needed in target.inputs.values():
        run(store, needed)
    return store.run(target.spec)


def test_declared_outputs_only_and_manifest(tmp_path):
    store = Store(tmp_path / ".store")
    first = node("a")
    manifest = run(store, node("b", {"add": 10}, {"a": first}))
    entry = store.entry("toy", manifest.key)
    assert (entry / "result.txt").read_text() == "16"
    assert not (entry / "stray.txt").exists()
    assert sorted(manifest.files) == ["folder/name.txt", "result.txt"]
    assert manifest.inputs["a"]["output"] == store.manifest("toy", first.key).output
    assert not store.work(manifest.key).exists()


def test_key_ignores_marked_fields_slug_and_order(tmp_path):
    assert node("a", {"x": 1, "_workers": 1}).key == node("a", {"_workers": 9, "x": 1}).key
    assert node("a", {"x": 1}).key != node("a", {"x": 2}).key
    assert node("a", inputs={"i": node("b")}).key != node("a", inputs={"i": node("c")}).key


def test_spec_survives_json():
    spec = node("a", {"x": [1, 2.5, "三"]}, {"i": node("b")}).spec
    again = StageSpec.from_json(spec.to_json())
    assert again == spec
    assert again.key == spec.key


def test_finished_stage_runs_once(tmp_path):
    store, trace = Store(tmp_path / ".store"), tmp_path / "trace"
    target = node("a", {"_trace": str(trace)})
    assert run(store, target) == run(store, target)
    assert len(trace.read_text().splitlines()) == 1


@pytest.mark.parametrize("damage", ["size", "content", "missing", "manifest"])
def test_damaged_entry_is_set_aside_and_rebuilt(tmp_path, damage):
    store = Store(tmp_path / ".store")
    target = node("a")
    before = run(store, target)
    path = store.entry("toy", target.key) / "result.txt"
    match damage:
        case "size":
            path.write_text("3 and more")
        case "content":
            path.write_text("9")
        case "missing":
            path.unlink()
        case "manifest":
            (path.parent / "manifest.json").write_text("{")
    with pytest.raises(Damaged):
        store.manifest("toy", target.key)
    after = run(store, target)
    assert after.output == before.output
    assert len(list((tmp_path / ".store" / "damaged").iterdir())) == 1


def test_large_files_are_verified_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr("experiment.store.EAGER_DIGEST_BYTES", 0)
    store = Store(tmp_path / ".store")
    target = node("a")
    run(store, target)
    (store.entry("toy", target.key) / "result.txt").write_text("9")
    assert store.manifest("toy", target.key) is not None
    with pytest.raises(Damaged, match=r"result\.txt"):
        store.manifest("toy", target.key, verify=True)


def test_output_outside_the_work_folder_is_refused(tmp_path):
    store = Store(tmp_path / ".store")
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ValueError, match="inside its work folder"):
        store._commit(work, ["../x"], {}, 0.0)
    with pytest.raises(FileNotFoundError, match="did not write it"):
        store._commit(work, ["x"], {}, 0.0)


def test_import_is_by_content_and_a_copy(tmp_path):
    store = Store(tmp_path / ".store")
    mine = tmp_path / "my file.json"
    mine.write_text(json.dumps({"a": 1}))
    key, _ = store.import_path(mine, "annotations.json", "mine")
    assert store.import_path(mine, "annotations.json", "mine")[0] == key
    mine.write_text("changed")
    assert json.loads((store.entry("file", key) / "annotations.json").read_text()) == {"a": 1}
    assert store.import_path(mine, "annotations.json", "mine")[0] != key


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder_names_the_path(tmp_path):
    from data_pipeline.contract import EnvironmentProblem

    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(EnvironmentProblem, match="ro"):
        run(Store(tmp_path / "ro" / ".store"), node("a"))


def test_full_disk_names_the_path(tmp_path, monkeypatch):
    import errno

    from data_pipeline.contract import EnvironmentProblem

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr("experiment.files.os.link", full)
    store = Store(tmp_path / ".store")
    with pytest.raises(EnvironmentProblem, match="No space left"):
        run(store, node("a"))
    monkeypatch.undo()
    assert store.manifest("toy", node("a").key) is None

    assert run(store, node("a")).output
