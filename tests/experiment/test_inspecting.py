"""`nora-ecot inspect`: the study's own demonstrations, any folder, and what is refused."""

import h5py
import pytest

from configs.choices import Subset
from experiment.cli import main
from tests.helpers import synthetic
from tests.helpers.synthetic import write_synthetic_subset


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory with a space and Chinese characters in its name, without CUDA."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "my 项目"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def inspect(*words):
    return main("inspect", words)


def test_a_folder(project, capsys):
    write_synthetic_subset(project / "demos", Subset.GOAL)
    assert inspect("--data", "demos", "--output", "seen") == 0
    said = capsys.readouterr().out
    assert "goal: 8 demonstrations of 2 tasks, 240 steps, 0 min 12 s" in said
    assert sorted(path.name for path in (project / "seen").iterdir()) == ["inspect_goal.html", "inspect_goal.png"]
    page = (project / "seen" / "inspect_goal.html").read_text()
    assert "data.test_fraction=0.05, data.seed=42, action.half_range_floor=0.3" in page
    assert "clipped</text>" in page


def test_a_folder_and_a_dry_run_contradict(project, capsys):
    write_synthetic_subset(project / "demos", Subset.GOAL, tasks=(0,), demos=1)
    assert inspect("--data", "demos", "--dry-run") == 2
    assert "with --data FOLDER none does" in capsys.readouterr().err
    assert main("doctor", ["--oracle", "--data", "demos", "--dry-run"]) == 2
    assert "with --data FOLDER none does" in capsys.readouterr().err
    assert not (project / "outputs").exists()


def test_a_tilde_is_the_home_folder(project, monkeypatch):
    home = project / "home"
    monkeypatch.setenv("HOME", str(home))
    write_synthetic_subset(home / "demos", Subset.GOAL, tasks=(0,))
    assert inspect("--data=~/demos", "--output=~/seen") == 0
    assert (home / "seen" / "inspect_goal.html").is_file()
    assert not (project / "~").exists()


def test_data_without_motion_are_shown_with_a_warning(project, capsys):
    write_synthetic_subset(project / "demos", Subset.GOAL, tasks=(3,))
    for path in (project / "demos").iterdir():
        with h5py.File(path, "r+") as file:
            for demo in file["data"].values():
                demo["actions"][:, 4] = 0
    assert inspect("--data", "demos", "action.half_range_floor=0") == 0
    assert "warning: ry hardly moves" in capsys.readouterr().out
    assert "No statistics: " in (project / "outputs" / "inspect" / "inspect_goal.html").read_text()


def test_the_study_s_own(project, capsys, monkeypatch):
    """Real stages: files that are already clean, their split and their statistics."""
    monkeypatch.setattr(synthetic, "FINGERPRINT", {})
    write_synthetic_subset(project / "data" / "libero_object_clean", Subset.OBJECT)
    words = ("--subset", "libero_object", "preset=tiny", "data.tasks.object=[0,1]", "executor.cores=1")
    assert inspect(*words, "--dry-run") == 0
    assert "3 of 3 stages to run" in capsys.readouterr().out
    assert not (project / "outputs" / "inspect").exists()
    assert inspect(*words) == 0
    page = project / "outputs" / "inspect" / "inspect_object.html"
    first = page.read_bytes()
    assert b"Stage split object: " in first
    assert b"6 / 2" in first, "train / test"
    capsys.readouterr()
    assert inspect(*words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert page.read_bytes() == first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give --subset NAME, --all-subsets or --data FOLDER"),
        (("--subset", "objet"), "did you mean 'object'?"),
        (("--subset", "object", "--all-subsets"), "not both"),
        (("--data", "nowhere"), "--data nowhere does not exist"),
        (("--data", "."), "did you mean demos or other?"),
        (("--data", "demos", "--subset", "goal"), "--subset goal, but demos has demonstrations of spatial"),
        (("--data", "other"), "other/cat_demo.hdf5 is of no task of libero_spatial, "),
        (("--data", "demos", "data.test_fraction=2"), "data.test_fraction=2"),
    ],
)
def test_refused_with_what_mends_it(project, capsys, words, says):
    write_synthetic_subset(project / "demos", Subset.SPATIAL, tasks=(0,), demos=1)
    (project / "other").mkdir()
    with h5py.File(project / "other" / "cat_demo.hdf5", "w") as file:
        file.create_group("data")
    assert inspect(*words) == 2
    assert says in capsys.readouterr().err
    assert not (project / "outputs").exists()


def test_a_damaged_file_is_named_and_nothing_is_written(project, capsys):
    write_synthetic_subset(project / "demos", Subset.SPATIAL, tasks=(0,))
    path = next((project / "demos").iterdir())
    path.write_bytes(path.read_bytes()[:5000])
    assert inspect("--data", "demos") == 78
    assert path.name in capsys.readouterr().err
    assert not (project / "outputs").exists()
