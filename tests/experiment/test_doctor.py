import pytest

from experiment import doctor
from experiment.store import Store
from tests.helpers.toy_stages import node


def test_damage_is_found_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("experiment.store.EAGER_DIGEST_BYTES", 0)
    store = Store(tmp_path / ".store")
    manifest = store.run(node("a").spec)
    assert doctor.verify(store).good
    (store.entry("toy", manifest.key) / "result.txt").write_text("9")
    found = doctor.verify(store)
    assert not found.good
    assert "result.txt" in found.says


def test_disk_looks_at_the_nearest_existing_folder(tmp_path):
    found = doctor.disk(tmp_path / "not" / "yet")
    assert str(tmp_path) in found.says


@pytest.mark.sim
def test_frame():
    found = doctor.frame()
    assert found.good, found.says


def test_frame_without_gl_says_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor, "_FRAME", "raise SystemExit('no GL here')")
    found = doctor.frame()
    assert not found.good
    assert "apt-get install" in found.says
