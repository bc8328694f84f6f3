import shutil

import pytest

from experiment.store import Store
from experiment.survey import Todo, survey
from experiment.views import View, ViewState, markers, publish, state
from tests.helpers.toy_stages import node


@pytest.fixture
def shown(tmp_path):
    """A finished stage `b` on `a`, published in outputs/b."""
    store = Store(tmp_path / "outputs" / ".store")
    a = node("a")
    b = node("b", inputs={"a": a})
    for stage in (a, b):
        manifest = store.run(stage.spec)
    view = View(b, tmp_path / "outputs" / "b")
    publish(store, view, manifest)
    return store, a, b, view, manifest


def found(store, *nodes, views=(), forced=()):
    return {n.spec.slug: survey(store, list(nodes), views, forced)[n.key] for n in nodes}


def test_published_files_are_the_stores(shown):
    store, _, b, view, manifest = shown
    assert (view.folder / "result.txt").samefile(store.entry("toy", b.key) / "result.txt")
    assert state(store, view, manifest) is ViewState.CURRENT
    assert [folder for folder, _ in markers(store)] == [view.folder.resolve()]


def test_a_deleted_view_asks_for_its_stage_and_what_depends_on_it(shown):
    store, a, b, view, _ = shown
    c = node("c", inputs={"b": b})
    store.run(c.spec)
    shutil.rmtree(view.folder)
    todo = found(store, a, b, c, views=[view])
    assert [todo[name].todo for name in "abc"] == [Todo.CACHED, Todo.RUN, Todo.RUN]
    assert "was deleted" in todo["b"].why
    assert "toy b runs again" in todo["c"].why


def test_a_changed_view_is_only_linked_again(shown):
    store, _, _, view, manifest = shown
    (view.folder / "result.txt").unlink()
    (view.folder / "result.txt").write_text("edited in an editor that replaces files")
    assert state(store, view, manifest) is ViewState.STALE
    publish(store, view, manifest)
    assert state(store, view, manifest) is ViewState.CURRENT


def test_a_copied_output_directory_is_current(shown, tmp_path):
    store, _, b, _, manifest = shown
    shutil.copytree(store.root.parent, tmp_path / "copy")
    copied = Store(tmp_path / "copy" / ".store")
    assert state(copied, View(b, tmp_path / "copy" / "b"), manifest) is ViewState.CURRENT


def test_another_stage_in_the_same_folder_replaces_only_its_own_files(shown):
    store, _, _, view, _ = shown
    (view.folder / "mine.txt").write_text("a person's")
    other = node("other", {"steps": 1})
    manifest = store.run(other.spec)
    publish(store, View(other, view.folder), manifest)
    assert (view.folder / "result.txt").read_text() == "1"
    assert (view.folder / "mine.txt").exists()


def test_survey_names_the_first_difference(shown):
    store, a, _, _, _ = shown
    assert found(store, node("a", {"steps": 5}))["a"].why == "steps: None -> 5"
    assert found(store, node("new"))["new"].why == "never built here"
    assert found(store, a, forced={a.key})["a"].why == "asked for"
    store.discard("toy", a.key)
    assert found(store, a)["a"].why == "never built here"


def test_unfinished_work_is_partial(shown):
    store, *_ = shown
    half = node("half")
    store.work(half.key).mkdir(parents=True)
    (store.work(half.key) / "progress.txt").write_text("step 0\n")
    assert found(store, half)["half"].todo is Todo.PARTIAL


def test_an_input_rebuilt_to_other_bytes_makes_its_dependents_stale(shown):
    store, a, b, _, _ = shown
    store.discard("toy", a.key)
    other = node("a", {"_note": "same key, other result"})
    assert other.key == a.key
    manifest = store.run(other.spec)
    assert found(store, a, b)["b"].todo is Todo.CACHED, "same bytes: still good"
    entry = store.entry("toy", a.key)
    (entry / "result.txt").write_text("99")
    import json

    from experiment.files import describe_files, output_digest

    (entry / "manifest.json").unlink()
    files = describe_files(entry)
    plain = {**json.loads(json.dumps(manifest.__dict__)), "files": files, "output": output_digest(files)}
    (entry / "manifest.json").write_text(json.dumps(plain))
    assert "another content" in found(store, a, b)["b"].why
