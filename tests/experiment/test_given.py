"""What a person gives, by path or on the command line, is what is used: data, adapters, secrets."""

import json
from dataclasses import replace

import h5py
import pytest

from configs.checks import ConfigError
from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.annotation_schema import check_annotations
from data_pipeline.contract import EnvironmentProblem
from experiment import results
from experiment.cli import main
from experiment.resolve import EXPERT, OFFICIAL, DataSource, check_drawn_alike, find_source
from experiment.secret import strip
from experiment.stages import STAGES
from experiment.store import Store
from experiment.views import NOTE_FILE
from tests.data_pipeline.test_ecot_import import libero_90
from tests.helpers import toy_study
from tests.helpers.reasoned import write_reasoned
from tests.helpers.synthetic import write_synthetic_subset


def test_expert_demonstrations_never_pass_for_official_ones(tmp_path):
    clean = tmp_path / "libero_object_clean"
    clean.mkdir()
    (clean / "a_demo.hdf5").touch()
    (clean / NOTE_FILE).write_text('{"stage":"regenerate","demonstrations":"expert"}')
    assert find_source("auto", Subset.OBJECT, tmp_path).kind == EXPERT
    with pytest.raises(EnvironmentProblem, match="no LIBERO demonstrations"):
        find_source(OFFICIAL, Subset.OBJECT, tmp_path)
    raw = tmp_path / "libero_object"
    raw.mkdir()
    (raw / "a_demo.hdf5").touch()
    assert find_source(OFFICIAL, Subset.OBJECT, tmp_path).folder == raw


def test_clean_files_must_show_what_evaluation_will_show(tmp_path):
    folder = write_synthetic_subset(tmp_path, Subset.OBJECT, demos=1, steps=4, size=8)
    with h5py.File(sorted(folder.glob("*.hdf5"))[0], "r+") as file:
        file["data/demo_0"].attrs["fingerprint"] = '{"assets":"builtin","look":"light"}'
    clean = DataSource(OFFICIAL, folder, clean=True)
    check_drawn_alike(clean, EnvConfig("builtin", Look.LIGHT))
    with pytest.raises(ConfigError, match=r"env\.look=light"):
        check_drawn_alike(clean, EnvConfig("builtin", Look.OFFICIAL))
    with pytest.raises(ConfigError, match=r"env\.assets=builtin"):
        check_drawn_alike(clean, EnvConfig("official", Look.LIGHT))
    check_drawn_alike(DataSource(OFFICIAL, folder), EnvConfig("official", Look.OFFICIAL))


def test_an_adapter_put_where_another_was_published_is_the_one_evaluated(tmp_path, monkeypatch):
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    assert main("train", ["--subset", "object"], phase="baseline") == 0
    store, path = Store(tmp_path / "outputs" / ".store"), tmp_path / "outputs/baseline/object/checkpoint-final"
    assert results.find_adapter(store, path).stage == "train"
    weights = path / "adapter_model.safetensors"
    weights.unlink()
    weights.write_text("trained elsewhere")
    node = results.find_adapter(store, path)
    assert (store.entry(node.stage, node.key) / "checkpoint-final" / weights.name).read_text() == "trained elsewhere"


def test_a_secret_flag_without_a_value_swallows_no_other_flag():
    assert strip(["--api-key", "--dry-run", "preset=tiny"]) == (["--dry-run", "preset=tiny"], [""])
    assert strip(["--llm-api-key", "preset=tiny", "--dry-run"]) == (["preset=tiny", "--dry-run"], [""])
    assert strip(["--llm-api-key", "+data.tasks.goal=[1]"]) == (["+data.tasks.goal=[1]"], [""])
    assert strip(["--api-key", "KEY", "--dry-run"]) == (["--dry-run"], ["KEY"])
    assert strip(["--api-key", "c2VjcmV0==", "--dry-run"]) == (["--dry-run"], ["c2VjcmV0=="])
    assert strip(["--api-key=KEY", "--llm-api-key"]) == ([], ["KEY", ""])


def test_generated_demonstrations_are_told_about_each_time_and_where_a_task_cannot_be_done(
    tmp_path, monkeypatch, capsys
):
    toy_study.install(monkeypatch)
    kind = replace(STAGES["demos"], function=f"{toy_study.MODULE}:demos_of_task_7")
    monkeypatch.setitem(STAGES, "demos", kind)
    monkeypatch.chdir(tmp_path)

    def generate(tasks):
        code = main(
            "generate_demos", ["--subset", "goal", "--num_workers", "2", "preset=tiny", f"data.tasks.goal={tasks}"]
        )
        return code, capsys.readouterr().out

    code, said = generate("[3,7]")
    assert code == 1
    assert "the expert cannot do task 3" in said
    assert "3 open the top drawer  0 of 1" in said
    for _ in range(2):  # made, and found in the store
        code, said = generate("[7]")
        assert code == 0
        assert "7 turn on the stove    1 of 1" in said
        assert "40.0 demonstrations per minute with 2 workers" in said
    assert "nothing to do" in said


def test_embodied_cots_annotations_are_converted_and_what_they_lack_is_said(tmp_path, monkeypatch, capsys):
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.json").write_text(json.dumps(libero_90()))
    assert main("train", ["--subset", "object", "--ecot_annotations", "theirs.json"], phase="text_cot") == 0
    said = capsys.readouterr().out
    assert "embodied-CoT annotations: 1 demonstrations, 30 of 30 steps" in said
    assert "absent, and never written: task, visible_objects, gripper_position" in said
    content = toy_study.trained_on(tmp_path / "outputs/text_cot/object/checkpoint-final/adapter_model.safetensors")
    assert content["config"]["phase"]["segments"][0]["without"] == ["task", "visible_objects", "gripper_position"]
    (converted,) = (tmp_path / "outputs/.store/file").glob("*/annotations.json")
    check_annotations(converted, json.loads(converted.read_text()))


def test_annotations_of_ours_with_a_slip_of_the_pen_are_refused(tmp_path, monkeypatch, capsys):
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    tree = write_reasoned(tmp_path / "mine.json", demos=1)
    (file,) = tree
    del tree[file]["0"]["reasoning"]["2"]["plan"]
    (tmp_path / "mine.json").write_text(json.dumps(tree))
    assert main("train", ["--subset", "object", "--ecot_annotations", "mine.json"], phase="text_cot") == 2
    assert "0 > reasoning > 2 > plan: Field required" in capsys.readouterr().err
