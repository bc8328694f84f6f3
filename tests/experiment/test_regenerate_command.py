"""`regenerate_libero` as a command of its own, and official data however it lies in the data folder; toy stages."""

import json

import h5py
import pytest

from configs.choices import Subset
from data_pipeline.libero_utils import demo_file
from data_pipeline.metainfo import Verdict, write_metainfo
from experiment.cli import main
from experiment.resolve import find_source
from experiment.stages import STAGES, StageKind
from experiment.store import Store
from tests.helpers import toy_study
from tests.helpers.synthetic import write_synthetic_subset

COMMAND = "--libero_task_suite libero_object --libero_raw_data_dir data/libero_object --libero_target_dir data/clean"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Raw demonstrations of tasks 0, 2 and 9 of object, and no CUDA device: the tiny preset, which has 0 and 3."""
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("LIBERO_ASSETS_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    write_synthetic_subset(tmp_path / "data" / "libero_object", Subset.OBJECT, tasks=(0, 2, 9), demos=1, size=8)
    return tmp_path


def built(project, stage):
    """Configurations of a stage's entries in the store."""
    return [manifest.config for _, manifest in Store(project / "outputs" / ".store").manifests(stage)]


def regenerate(*more):
    return main("regenerate_libero", [*COMMAND.split(), *more])


def test_every_task_of_the_folder_at_256_px(project, capsys):
    assert regenerate() == 0
    assert "drawing: 256 px, light look, builtin assets (preset tiny)" in capsys.readouterr().out
    assert [config["tasks"] for config in built(project, "official")] == [[0, 2, 9]]
    assert [(c["env"]["resolution"], c["skip_bad"]) for c in built(project, "regenerate")] == [(256, False)]


def test_settings_that_are_given_win(project):
    assert regenerate("env.resolution=64", "env.look=official", "data.tasks.object=[2]", "--skip-bad") == 0
    assert [config["tasks"] for config in built(project, "official")] == [[2]]
    (config,) = built(project, "regenerate")
    assert (config["env"]["resolution"], config["env"]["look"], config["skip_bad"]) == (64, "official", True)


@pytest.mark.parametrize("target", ["data/libero_object", "data/../data/libero_object/", "link"])
def test_the_folder_that_is_read_is_never_written(project, capsys, target):
    raw = project / "data" / "libero_object"
    (project / "link").symlink_to(raw)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    assert regenerate("--libero_target_dir", target) == 2
    said = capsys.readouterr().err
    assert "is the folder that is read" in said
    assert "data/libero_object_clean" in said
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
    assert not built(project, "regenerate")


def test_demonstrations_of_others_are_not_replaced(project, capsys):
    clean = write_synthetic_subset(project / "data" / "clean", Subset.OBJECT, tasks=(0,), demos=1, size=8)
    (theirs,) = clean.glob("*.hdf5")
    before = theirs.read_bytes()
    assert regenerate() == 2
    said = capsys.readouterr().err
    assert f"did not write ({theirs})" in said
    assert f"{project / 'data' / 'libero_object'} would replace them" in said
    assert theirs.read_bytes() == before
    theirs.unlink()
    assert regenerate() == 0
    assert regenerate("env.resolution=64") == 0, "what was published is replaced"


def test_a_suite_by_its_subset_s_name_and_a_misspelt_one(project, capsys):
    assert regenerate("--libero_task_suite", "object", "--dry-run") == 0
    assert regenerate("--libero_task_suite", "libero_objcet") == 2
    assert "'libero_objcet' is unknown (did you mean 'object'?); allowed: spatial" in capsys.readouterr().err


def test_a_stray_word_is_named(project, capsys):
    assert main("generate_demos", ["object"]) == 2
    assert "'object' is neither a flag nor an override" in capsys.readouterr().err


def test_two_resolutions_are_a_contradiction(project, capsys):
    assert regenerate("env.resolution=64", "--image_resolution", "128") == 2
    assert "keep one" in capsys.readouterr().err


def test_the_table_is_printed_again_when_nothing_runs(project, capsys, monkeypatch):
    verdict = Verdict.of_bad("a NaN")
    write_metainfo(project / "made", {"a_task": {"demo_3": verdict}})
    monkeypatch.setenv(toy_study.METAINFO, (project / "made").read_text())
    assert regenerate() == 0
    first = capsys.readouterr().out
    assert regenerate() == 0
    again = capsys.readouterr().out
    assert "nothing to do" in again
    for text in (first, again):
        assert "skipped: a_task, demo_3: a NaN" in text


def test_expert_demonstrations_of_another_output_folder_are_taken_as_they_are(project):
    assert main("generate_demos", ["--subset", "object", "--output_dir", "elsewhere"]) == 0
    folder = project / "data" / "libero_object_expert"
    for path in folder.glob("*.hdf5"):  # the toys' are no HDF5
        path.unlink()
    write_synthetic_subset(folder, Subset.OBJECT, tasks=(1,), demos=1, size=8)
    argv = COMMAND.replace("data/libero_object ", "data/libero_object_expert ").split()
    assert main("regenerate_libero", argv) == 0
    assert not built(project, "demos")
    assert [config["tasks"] for config in built(project, "official")] == [[1]]
    assert json.loads((project / "data/clean/.nora_ecot.json").read_text())["demonstrations"] == "expert"


def test_a_published_folder_that_somebody_changed_is_read_as_it_is(project):
    assert main("generate_demos", ["--subset", "object"]) == 0
    folder = project / "data" / "libero_object_expert"
    argv = COMMAND.replace("data/libero_object ", "data/libero_object_expert ").split()
    assert main("regenerate_libero", argv) == 0
    assert not built(project, "official"), "as published: the store's own entry"
    for path in folder.glob("*.hdf5"):
        path.unlink()
    write_synthetic_subset(folder, Subset.OBJECT, tasks=(1,), demos=1, size=8)
    assert main("regenerate_libero", argv) == 0
    assert [config["tasks"] for config in built(project, "official")] == [[1]]


def test_another_source_than_the_one_used_is_a_contradiction(project, capsys):
    assert main("generate_demos", ["--subset", "object", "data.source=official"]) == 2
    assert "data.source=official contradicts this command: generate_demos makes" in capsys.readouterr().err
    assert regenerate("data.source=expert") == 2
    assert "libero_object is official; leave data.source out" in capsys.readouterr().err
    assert regenerate("data.source=official", "--dry-run") == 0


def test_files_of_any_name_and_the_folder_libero_10_are_found(project, capsys):
    raw = project / "data" / "libero_10"
    write_synthetic_subset(raw, Subset.LONG, tasks=(5, 6), demos=1, size=8)
    demo_file(raw, Subset.LONG, 5).rename(raw / "task1.hdf5")
    assert find_source("auto", Subset.LONG, project / "data").folder == raw
    argv = "--phase baseline --subset object --only regenerate data.tasks.object=[0,2] data.tasks.long=[5,6]"
    assert main("run_experiment", [*argv.split(), "--skip-bad", "model.base=scratch"]) == 0  # which needs all subsets
    assert f"data long: {raw} (raw)" in capsys.readouterr().out
    files = {config["subset"]: config["files"] for config in built(project, "official")}
    assert [name for name, _ in files["long"]] == [demo_file(raw, Subset.LONG, task).name for task in (5, 6)]
    assert all(config["skip_bad"] for config in built(project, "regenerate"))


def nan(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][3, 1] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (nan, 2, "/data/demo_0/actions has a value that is not finite at step 3"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), 78, "3000 bytes, truncated or damaged"),
        (lambda path: path.write_text("<html>"), 78, "it is a web page"),
    ],
)
def test_a_bad_file_ends_the_command_and_leaves_nothing(project, capfd, monkeypatch, spoil, code, says):
    monkeypatch.setitem(STAGES, "official", StageKind("data_pipeline.raw_loader:run_official", "light"))
    path = demo_file(project / "data" / "libero_object", Subset.OBJECT, 2)
    spoil(path)
    assert regenerate() == code
    said = capfd.readouterr()
    assert f"{path}: {says}" in said.out
    assert "Traceback" not in said.out + said.err
    assert not (project / "data" / "clean").exists()
    assert not built(project, "official")
    assert not built(project, "regenerate")


def test_skipping_leaves_the_names_of_folders_as_they_are(project):
    write_synthetic_subset(project / "data" / "libero_object", Subset.OBJECT, tasks=(3,), demos=1, size=8)
    argv = "--phase baseline --subset object --skip-bad --only train"
    assert main("run_experiment", argv.split()) == 0
    assert [path.name for path in (project / "outputs").iterdir() if path.name.startswith("baseline")] == ["baseline"]


def test_skipping_of_the_expert_s_demonstrations_is_refused(project, capsys):
    argv = ["--phase", "baseline", "--subset", "object", "--skip-bad", "data.source=expert", "--dry-run"]
    assert main("run_experiment", argv) == 2
    assert "every demonstration here is the scripted expert's" in capsys.readouterr().err


def test_skipping_where_nothing_is_replayed_is_refused(project, capsys):
    (project / "data" / "libero_object").rename(project / "data" / "libero_object_clean")
    assert main("run_experiment", ["--phase", "baseline", "--subset", "object", "--skip-bad"]) == 2
    assert "data.skip_bad acts where raw files are regenerated" in capsys.readouterr().err
