"""LIBERO's HDF5 layout: written, read back, lazily, with errors that name the culprit; the stage `official`."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import STUDY, Subset
from configs.slices import OfficialSlice
from data_pipeline.contract import AGENTVIEW, CAMERAS, WRIST, EnvironmentProblem, EpisodeId, StageContext
from data_pipeline.hdf5_layout import DemoRecord, DemoWriter, TaskInfo, copy_demo, write_demo
from data_pipeline.hdf5_reading import list_demos, task_files, task_of_file
from data_pipeline.libero_utils import demo_file
from data_pipeline.raw_loader import Hdf5Source, fixtures_of_model, read_replay, run_official
from data_pipeline.whole_files import file_sha256
from tests.helpers.synthetic import make_record, write_synthetic_subset

ROOT = Path(__file__).parents[2]
FIRST = EpisodeId(Subset.OBJECT, 0, 0)
SENTENCE = "pick up the alphabet soup and place it in the basket"
INFO = TaskInfo("pick_up", "pick up the thing", "problem", "a.bddl", "(define)", {"env_kwargs": {}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_synthetic_subset(tmp_path / "demos", Subset.OBJECT, demos=3, steps=12, size=16)


@pytest.fixture
def record() -> DemoRecord:
    return make_record(np.random.default_rng(5), steps=12, size=16)


def official_file(path: Path, record: DemoRecord, model_file: str = "") -> None:
    """As LIBERO's own writer leaves it: none of our attributes, and float32 nowhere."""
    with DemoWriter(path, INFO) as writer:
        writer.add(0, record)
    with h5py.File(path, "r+") as file:
        attributes = file["data/demo_0"].attrs
        for name in ("settle_steps", "fixture_poses", "seed", "fingerprint", "success"):
            del attributes[name]
        attributes["model_file"] = model_file


# ------------------------------------------------------------------ round trip


def test_what_is_written_is_read_back(tmp_path: Path, record: DemoRecord) -> None:
    path = demo_file(tmp_path, Subset.OBJECT, 0)
    record = replace(record, settle_steps=10, init_state=record.states[0] + 1)
    with DemoWriter(path, INFO) as writer:
        writer.add(17, record)
    source = Hdf5Source(tmp_path, Subset.OBJECT)
    assert source.list() == [EpisodeId(Subset.OBJECT, 0, 17)]
    episode = source.open(source.list()[0])
    assert episode.instruction == SENTENCE
    assert episode.actions.dtype == episode.proprio.dtype == np.float32
    np.testing.assert_array_equal(episode.actions, record.actions.astype(np.float32))
    np.testing.assert_array_equal(episode.proprio[:, :6], record.observations["ee_states"].astype(np.float32))
    np.testing.assert_array_equal(episode.proprio[:, 6:], record.observations["gripper_states"].astype(np.float32))
    np.testing.assert_array_equal(episode.states, record.states)
    assert episode.fixtures == record.fixture_poses
    assert episode.fingerprint == record.fingerprint
    assert episode.success
    for camera in CAMERAS:
        np.testing.assert_array_equal(episode.frames(camera), record.images[camera])
    start = read_replay(path, 17)
    assert start.actions.dtype == np.float64
    np.testing.assert_array_equal(start.actions, record.actions)
    np.testing.assert_array_equal(start.init_state, record.init_state)
    assert (start.settle_steps, start.seed, start.fixture_poses) == (10, record.seed, record.fixture_poses)


def test_layout_is_liberos(folder: Path) -> None:
    with h5py.File(demo_file(folder, Subset.OBJECT, 1)) as file:
        data, demo = file["data"].attrs, file["data/demo_2"]
        assert set(demo) == {"actions", "states", "robot_states", "rewards", "dones", "obs"}
        assert set(demo["obs"]) == {
            "agentview_rgb", "eye_in_hand_rgb", "ee_pos", "ee_ori", "ee_states", "gripper_states", "joint_states",
        }  # fmt: skip
        assert demo["actions"].dtype == np.float64
        assert demo["robot_states"].shape == (12, 9)
        assert demo["dones"][:].tolist() == [0] * 11 + [1]
        assert {"num_samples", "model_file", "init_state"} <= set(demo.attrs)
        assert (data["num_demos"], data["total"], data["macros_image_convention"]) == (3, 36, "opengl")
        assert "language_instruction" in json.loads(data["problem_info"])
        assert {"env_name", "bddl_file_name", "bddl_file_content", "env_args"} <= set(data)


def test_same_demonstrations_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_synthetic_subset(tmp_path / "a", Subset.OBJECT, tasks=(0,), steps=5, size=8)
    time.sleep(1.1)  # a time stamp would show
    second = write_synthetic_subset(tmp_path / "b", Subset.OBJECT, tasks=(0,), steps=5, size=8)
    first_file, second_file = (demo_file(folder, Subset.OBJECT, 0) for folder in (first, second))
    assert first_file.read_bytes() == second_file.read_bytes()


def test_collected_and_copied_demonstrations_equal_directly_written_ones(tmp_path: Path, record: DemoRecord) -> None:
    write_demo(tmp_path / "part", record)
    with DemoWriter(tmp_path / "direct", INFO) as writer:
        writer.add(3, record)
    copy_demo(tmp_path / "direct", 3, tmp_path / "copied")
    for name in ("part", "copied"):
        with DemoWriter(tmp_path / f"from_{name}", INFO) as writer:
            writer.add_file(3, tmp_path / name)
        start = read_replay(tmp_path / f"from_{name}", 3)
        np.testing.assert_array_equal(start.states, record.states)
        with h5py.File(tmp_path / f"from_{name}") as file:
            assert file["data"].attrs["total"] == 12
            np.testing.assert_array_equal(file["data/demo_3/obs/agentview_rgb"][()], record.images[AGENTVIEW])


def test_an_error_while_writing_leaves_no_file(tmp_path: Path, record: DemoRecord) -> None:
    def write_short_states() -> None:
        with DemoWriter(tmp_path / "a_demo.hdf5", INFO) as writer:
            writer.add(0, record)
            writer.add(1, replace(record, states=record.states[1:]))

    with pytest.raises(ValueError, match=r"demo_1: 12 actions, other lengths {'states': 11}"):
        write_short_states()
    assert list(tmp_path.iterdir()) == []


def test_demos_are_listed_by_number(tmp_path: Path, record: DemoRecord) -> None:
    with DemoWriter(tmp_path / "a", INFO) as writer:
        for demo in (10, 2, 1):
            writer.add(demo, record)
    assert list_demos(tmp_path / "a") == [1, 2, 10]


# ------------------------------------------------------------------ official files


def test_official_files_replay_from_their_first_state(tmp_path: Path, record: DemoRecord) -> None:
    model = """<mujoco><worldbody>
      <body name="table" pos="0 0 0.8"/>
      <body name="flat_stove_1_main" pos="0.1 0.2 0.9" quat="1 0 0 0"><body name="burner"/></body>
      <body name="wine_bottle_1_main" pos="0 0 0"><joint name="j" type="free"/></body>
      <body name="plate_1_main"><freejoint/></body>
      <body name="robot0_base" pos="-0.6 0 0"/>
    </worldbody></mujoco>"""
    path = demo_file(tmp_path, Subset.OBJECT, 0)
    official_file(path, record, model)
    start = read_replay(path, 0)
    np.testing.assert_array_equal(start.init_state, record.states[0])
    assert start.settle_steps == 0
    assert start.fixture_poses == {"flat_stove_1_main": (0.1, 0.2, 0.9, 1.0, 0.0, 0.0, 0.0)}
    episode = Hdf5Source(tmp_path, Subset.OBJECT).open(FIRST)
    assert episode.success
    assert episode.fingerprint == {}
    assert fixtures_of_model("") == {}


def test_training_reads_the_sentence_that_evaluation_says(tmp_path: Path, record: DemoRecord) -> None:
    """Official files hold the BDDL file's sentence, which differs for every task of spatial and object."""
    path = demo_file(tmp_path, Subset.OBJECT, 0)
    official_file(path, record)
    with h5py.File(path, "r+") as file:
        spoken = {"language_instruction": "Pick the alphabet soup and place it in the basket"}
        file["data"].attrs["problem_info"] = json.dumps(spoken)
    assert Hdf5Source(tmp_path, Subset.OBJECT).open(FIRST).instruction == SENTENCE


# ------------------------------------------------------------------ laziness


@pytest.mark.parametrize("demos", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_demonstrations_at_256_px_cost_little_memory(demos: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An official file (contiguous, uncompressed) of demonstrations of 150 steps, in a process of its own."""
    command = [sys.executable, "benchmarks/bench_loader.py", "--demos", str(demos)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    figures = json.loads(done.stdout.splitlines()[0])
    with capsys.disabled():
        print(f"\nloader: {done.stdout.strip()}")
    assert figures["reference_mb"] > 58 * demos
    assert figures["open_all_mb"] < 20
    assert figures["peak_growth_mb"] < 100, "one camera of one demonstration has 29 MB"


def test_an_opened_episode_crosses_to_another_process(folder: Path) -> None:
    episode = pickle.loads(pickle.dumps(Hdf5Source(folder, Subset.OBJECT).open(FIRST)))  # noqa: S301 - our own bytes
    assert episode.frames(WRIST).shape == (12, 16, 16, 3)


# ------------------------------------------------------------------ faults


def damage(path: Path, key: str, values: np.ndarray | None) -> None:
    """Replace (or, with None, delete) a data set of demo_1."""
    with h5py.File(path, "r+") as file:
        del file[f"data/demo_1/{key}"]
        if values is not None:
            file[f"data/demo_1/{key}"] = values


NAN = np.zeros((12, 7))
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("actions", None, "is missing"),
        ("actions", NAN, "not finite at step 4"),
        ("actions", np.zeros((0, 7)), "is empty"),
        ("actions", np.zeros((12, 6)), r"is float64 \[12, 6\]; expected numbers \[T, 7\]"),
        ("actions", np.full((12, 7), b"x"), r"is \|S1 \[12, 7\]; expected numbers"),
        (
            "actions",
            np.full((12, 7), 0.05) * np.arange(12)[:, None] * 2,
            r"actions is 1.1 at step 11, dimension 0; allowed",
        ),
        ("obs/ee_pos", None, "is missing"),
        ("obs/ee_pos", np.zeros((11, 3)), "has 11 rows where actions has 12"),
        ("states", np.full((12, 20), np.inf), "not finite at step 0"),
        ("obs/agentview_rgb", None, "is missing"),
        ("obs/agentview_rgb", np.zeros((12, 16, 16, 3)), r"is float64 \[12, 16, 16, 3\]; expected uint8"),
        ("obs/eye_in_hand_rgb", np.zeros((12, 16, 16), np.uint8), r"is uint8 \[12, 16, 16\]; expected uint8 \[T, H"),
        ("obs/eye_in_hand_rgb", np.zeros((13, 16, 16, 3), np.uint8), "has 13 rows where actions has 12"),
    ],
)
def test_a_bad_demonstration_is_named(folder: Path, key: str, values: np.ndarray | None, message: str) -> None:
    path = demo_file(folder, Subset.OBJECT, 0)
    damage(path, key, values)
    source = Hdf5Source(folder, Subset.OBJECT)
    source.open(FIRST)
    with pytest.raises(ConfigError, match=message) as error:
        source.open(EpisodeId(Subset.OBJECT, 0, 1))
    assert f"{path}: /data/demo_1/{key}" in str(error.value)


def test_a_damaged_attribute_is_named(folder: Path) -> None:
    with h5py.File(demo_file(folder, Subset.OBJECT, 0), "r+") as file:
        file["data/demo_0"].attrs["fingerprint"] = "{"
    with pytest.raises(ConfigError, match="/data/demo_0: attribute fingerprint is not JSON"):
        Hdf5Source(folder, Subset.OBJECT).open(FIRST)


def test_an_empty_demonstration_is_named(folder: Path) -> None:
    path = demo_file(folder, Subset.OBJECT, 0)
    with h5py.File(path, "r+") as file:
        file["data"].create_group("demo_9")
    with pytest.raises(ConfigError, match=r"data/demo_9/actions is missing \(present: \)"):
        Hdf5Source(folder, Subset.OBJECT).open(EpisodeId(Subset.OBJECT, 0, 9))


def test_a_start_without_its_state_is_named(folder: Path) -> None:
    path = demo_file(folder, Subset.OBJECT, 0)
    demo = list_demos(path)[0]
    with h5py.File(path, "r+") as file:
        file[f"data/demo_{demo}"].attrs["settle_steps"] = 10
        del file[f"data/demo_{demo}"].attrs["init_state"]
    with pytest.raises(ConfigError, match=f"{path}: /data/demo_{demo}: attribute init_state is missing"):
        read_replay(path, demo)


def test_a_model_that_is_no_xml_is_named(tmp_path: Path, record: DemoRecord) -> None:
    path = demo_file(tmp_path, Subset.OBJECT, 0)
    official_file(path, record, "<mujoco><worldbody>")
    with pytest.raises(ConfigError, match=f"{path}: /data/demo_0: attribute model_file is not XML"):
        read_replay(path, 0)


NO_HDF5 = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a git-LFS pointer"),
    "page": (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    "archive": (b"PK\x03\x04....", "is a zip archive"),
    "nothing": (b"", "0 bytes, truncated or damaged"),
    "noise": (b"x" * 100, "100 bytes, truncated or damaged"),
}


@pytest.mark.parametrize("kind", NO_HDF5)
@pytest.mark.parametrize("name", ["", "task1.hdf5"])
def test_what_is_not_hdf5_is_called_what_it_is(folder: Path, kind: str, name: str) -> None:
    content, message = NO_HDF5[kind]
    path = folder / name if name else demo_file(folder, Subset.OBJECT, 1)
    path.write_bytes(content)
    with pytest.raises(EnvironmentProblem, match=message) as error:
        Hdf5Source(folder, Subset.OBJECT).list()
    assert str(path) in str(error.value)


def test_a_truncated_file_is_named_with_the_remedy(folder: Path) -> None:
    path = demo_file(folder, Subset.OBJECT, 1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EnvironmentProblem, match=r"truncated or damaged.*download it again") as error:
        Hdf5Source(folder, Subset.OBJECT).list()
    assert str(path) in str(error.value)


def test_a_file_without_demonstrations_and_a_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \*.hdf5 of subset object"):
        Hdf5Source(tmp_path, Subset.OBJECT)
    path = demo_file(tmp_path, Subset.OBJECT, 0)
    h5py.File(path, "w").close()
    with pytest.raises(ConfigError, match="no demonstrations"):
        Hdf5Source(tmp_path, Subset.OBJECT).list()


# ------------------------------------------------------------------ which task a file is of


def rename(folder: Path, task: int, name: str, **attributes: str) -> Path:
    """Give a file of a synthetic subset another name and other attributes of `data`; "" takes one away."""
    path = demo_file(folder, Subset.OBJECT, task).rename(folder / name)
    with h5py.File(path, "r+") as file:
        for key, value in attributes.items():
            file["data"].attrs[key] = value
            if not value:
                del file["data"].attrs[key]
    return path


def test_a_file_may_have_any_name(folder: Path) -> None:
    """The README's task1.hdf5: the attributes say what it is of."""
    first = rename(folder, 0, "task2.hdf5")
    spoken = json.dumps({"language_instruction": "Pick the cream cheese and place it in the basket"})
    second = rename(folder, 1, "task1.hdf5", bddl_file_name="", problem_info=spoken)
    (folder / "._task1.hdf5").write_bytes(b"what macOS leaves in archives")
    assert task_files(folder, Subset.OBJECT) == {0: first, 1: second}
    episode = Hdf5Source(folder, Subset.OBJECT).open(FIRST)
    assert (episode.task_name, episode.instruction) == (SENTENCE.replace(" ", "_"), SENTENCE)


def test_two_files_of_one_task_are_refused(folder: Path) -> None:
    copy = folder / "again.hdf5"
    copy.write_bytes(demo_file(folder, Subset.OBJECT, 1).read_bytes())
    with pytest.raises(ConfigError, match="both hold the task pick_up_the_cream_cheese_and_place") as error:
        Hdf5Source(folder, Subset.OBJECT)
    assert str(copy) in str(error.value)
    assert str(demo_file(folder, Subset.OBJECT, 1)) in str(error.value)


def test_a_file_of_another_subset_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is not of a task of libero_goal: it is of libero_object"):
        Hdf5Source(folder, Subset.GOAL)


def test_an_unknown_file_is_refused_with_what_it_calls_itself(folder: Path) -> None:
    path = rename(folder, 0, "task9.hdf5", bddl_file_name="x/KITCHEN_SCENE3_turn_on_the_stove.bddl", problem_info="")
    for subset in STUDY:  # of libero_90; "turn on the stove" alone would be a task of goal
        with pytest.raises(ConfigError, match=r"attributes name one \(task9, KITCHEN_SCENE3_turn_on_the_stove\)"):
            task_of_file(path, subset)


def test_a_file_named_after_another_task_is_refused(folder: Path) -> None:
    demo_file(folder, Subset.OBJECT, 0).rename(demo_file(folder, Subset.OBJECT, 4))
    with pytest.raises(
        ConfigError, match=r"is named after the task pick_up_the_ketchup.*and holds pick_up_the_alphabet"
    ):
        Hdf5Source(folder, Subset.OBJECT).open(EpisodeId(Subset.OBJECT, 4, 0))


def test_paths_with_spaces_and_chinese(tmp_path: Path) -> None:
    folder = write_synthetic_subset(tmp_path / "数据 集", Subset.OBJECT, tasks=(0,), steps=4, size=8)
    assert Hdf5Source(folder, Subset.OBJECT).open(FIRST).frames(AGENTVIEW).shape == (4, 8, 8, 3)


# ------------------------------------------------------------------ the stage


def official_slice(folder: Path) -> OfficialSlice:
    files = task_files(folder, Subset.OBJECT)
    names = tuple((demo_file(folder, Subset.OBJECT, task).name, file_sha256(path)) for task, path in files.items())
    return OfficialSlice(Subset.OBJECT, tuple(files), names, tuple(map(str, files.values())))


def test_official_links_what_it_checked(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    renamed = rename(folder, 0, "task1.hdf5")
    config = official_slice(folder)
    for _ in range(2):  # the second time over an earlier attempt's work
        outputs = run_official(config, StageContext(work=work, inputs={}))
    assert outputs == [name for name, _ in config.files]
    assert outputs == [demo_file(folder, Subset.OBJECT, task).name for task in (0, 1)]
    assert (work / outputs[0]).samefile(renamed)
    assert sorted(p.name for p in work.iterdir()) == outputs


def test_official_names_a_bad_demonstration_in_the_users_own_file(folder: Path, tmp_path: Path) -> None:
    path = rename(folder, 0, "task1.hdf5")
    damage(path, "actions", NAN)
    config, work = official_slice(folder), tmp_path / "work"
    work.mkdir()
    with pytest.raises(ConfigError, match=f"{path}: /data/demo_1/actions has(?s:.*)1 of 6 demonstrations.*--skip-bad"):
        run_official(config, StageContext(work=work, inputs={}))
    assert not list(work.iterdir())
    assert len(run_official(replace(config, skip_bad=True), StageContext(work=work, inputs={}))) == 2
    only_the_other = replace(config, tasks=(1,), files=config.files[1:], paths=config.paths[1:])
    assert len(run_official(only_the_other, StageContext(work=work, inputs={}))) == 1


def test_official_stops_at_changed_or_missing_files(folder: Path, tmp_path: Path) -> None:
    config = official_slice(folder)
    context = StageContext(work=tmp_path, inputs={})
    name = config.files[1][0]
    with (folder / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(EnvironmentProblem, match=f"{name} has changed"):
        run_official(config, context)
    (folder / name).unlink()
    with pytest.raises(EnvironmentProblem, match=f"{name} is missing"):
        run_official(config, context)
