"""Bad input: one clear message that says what to do, and the exit code that says whose turn it is."""

import pytest

from experiment.cli import main
from tests.helpers import toy_study


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("LIBERO_ASSETS_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--phase baseline --subset objct", "did you mean 'object'?"),
        ("--phase baseline", "--subset"),
        ("--subset object", "--phase"),
        ("--phase basline --subset object", "did you mean baseline?"),
        ("--phase missing.yaml --subset object", "missing.yaml"),
        ("--phase baseline --subset object preset=tyny", "did you mean tiny?"),
        ("--phase baseline --subset object lora.rnak=8", "did you mean lora.rank?"),
        ("--phase baseline --subset object rank=8", "did you mean lora.rank?"),
        ("--phase baseline --subset object lora.rank=eight", "must be of type int"),
        ("--phase baseline --subset object lora.rank=0", "out of range"),
        ("--phase baseline --subset object data.tasks.object=[11]", "0 to 9"),
        ("--phase baseline --subset object --num_trials 5 eval.num_trials=6", "keep one"),
        ("--phase baseline --subset object --num_trails 5", "did you mean --num_trials?"),
        ("--phase baseline --subset object --seeds 0,x", "seed='x'"),
        ("--phase baseline --subset object executor.kind=ray", "allowed: local"),
        ("--phase baseline --subset object nonsense", "neither a flag nor"),
        ("--phase baseline --subset object --only trian", "unknown stage 'trian'"),
        ("--phase baseline --subset object --mode think", "no reasoning"),
        ("--phase baseline --subset object lora.rank=[1,", "lora.rank"),
        ("--phase baseline --subset object --name ../../elsewhere", "part of folder names"),
        ("--phase baseline --subset object --name a@b", "part of folder names"),
        ("--phase baseline --subset object --num_workers 0", "--num_workers=0 is out of range"),
        ("--phase baseline --subset 90", "for evaluation alone"),
        ("--phase baseline --subset object eval.batch_rows=0", "eval.batch_rows=0 is out of range"),
        ("--phase baseline --subset object trainer.device=tpu", "allowed: auto, cpu, cuda"),
        ("--phase baseline --subset object trainer.device=cuda", "no CUDA device is here; allowed: auto, cpu"),
        ("--phase baseline --subset object model.base=./nowhere", "model.base=./nowhere is no folder"),
        ("--phase baseline --subset object eval.protocol=nora action.execute=3", "executes 5 steps of each chunk"),
    ],
)
def test_usage(argv, says, capsys, project):
    assert main("run_experiment", argv.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1, error
    assert not (project / "outputs" / ".store" / "logs").exists(), "nothing may run before the configuration is right"


def test_a_flag_and_an_override_may_agree(capsys):
    argv = "--phase baseline --subset object --num_trials 5 eval.num_trials=5 --dry-run"
    assert main("run_experiment", argv.split()) == 0


def test_a_warm_up_that_never_ends_is_said(capsys):
    argv = "--phase baseline --subset object --dry-run optimizer.warmup_steps=50 --max_train_steps"
    for steps, said in (("49", True), ("50", False)):
        assert main("run_experiment", [*argv.split(), steps]) == 0
        assert ("never reaches its peak" in capsys.readouterr().out) is said


def test_a_folder_given_for_annotations(project, capsys):
    (project / "made").mkdir()
    assert main("train", ["--subset", "object", "--ecot_annotations", "made"], phase="text_cot") == 2
    assert "made is a folder; name a file, or make it with" in capsys.readouterr().err


def test_the_study_itself_names_what_it_lacks(capsys):
    assert (
        main("run_experiment", ["--phase", "baseline", "--subset", "object", "preset=nora_3b", "env.assets=builtin"])
        == 78
    )
    error = capsys.readouterr().err
    assert "libero_object" in error
    assert "data.source=expert" in error


def test_the_study_itself_names_missing_assets(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = "--phase baseline --subset object preset=nora_3b data.source=expert"
    assert main("run_experiment", argv.split()) == 78
    assert "env.assets=builtin" in capsys.readouterr().err


def test_an_incomplete_download_is_named(project, capsys):
    folder = project / "data" / "libero_object"
    folder.mkdir(parents=True)
    (folder / "pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5").write_bytes(b"x")
    assert main("run_experiment", ["--phase", "baseline", "--subset", "object", "preset=tiny"]) == 78
    assert "alphabet_soup" in capsys.readouterr().err


def test_unwritable_output(project, capsys):
    (project / "file").write_text("not a folder")
    argv = "--phase baseline --subset object preset=tiny --output_dir file/outputs"
    assert main("run_experiment", argv.split()) == 78
    assert "file/outputs" in capsys.readouterr().err


def test_missing_adapter(capsys):
    argv = "--model_type baseline --libero_subset object --lora_path outputs/baseline/object/checkpoint-final"
    assert main("evaluate", argv.split()) == 2
    assert "train_baseline.py" in capsys.readouterr().err


def evaluated(path):
    return main("evaluate", ["--model_type", "baseline", "--libero_subset", "object", "--lora_path", str(path)])


def test_what_is_no_adapter(project, capsys):
    folder = project / "mine"
    folder.mkdir()
    assert evaluated(folder) == 2
    assert f"{folder} has no adapter_card.json" in capsys.readouterr().err
    weights = folder / "adapter_model.safetensors"
    weights.touch()
    assert evaluated(weights) == 2
    assert f"is a file; give the adapter's folder, {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("card", "says"), [('{"base": "ti', "Unterminated string"), ('{"bose": ""}', "unknown key bose")]
)
def test_a_damaged_card_is_named_before_anything_runs(project, capsys, card, says):
    path = project / "mine" / "adapter_card.json"
    path.parent.mkdir()
    path.write_text(card)
    assert evaluated(path.parent) == 78
    error = capsys.readouterr().err
    assert f"{path} cannot be read ({says}" in error
    assert "copy the whole checkpoint folder again" in error


def test_cut_off_weights_are_named_before_anything_runs(project, capsys):
    assert main("train", ["--subset", "object"], phase="baseline") == 0
    folder = project / "outputs" / "baseline" / "object" / "checkpoint-final"
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert evaluated(folder) == 78
    error = capsys.readouterr().err
    assert f"{weights.relative_to(project)} is damaged" in error.replace(f"{project}/", "")
    assert "`nora-ecot train --phase baseline --subset object`" in error


@pytest.mark.parametrize("flag", ["--reasoning_dropout_prob", "--cot_loss_weight"])
def test_flags_of_the_reasoning_where_there_is_none(capsys, flag):
    assert main("train", ["--subset", "object", flag, "0.3"], phase="baseline") == 2
    assert f"{flag}: phase baseline writes no reasoning" in capsys.readouterr().err
    assert main("run_experiment", ["--phase", "baseline", "--subset", "object", flag, "0.3"]) == 2
    assert main("train", ["--subset", "object", flag, "0.3", "--dry_run"], phase="text_cot") == 0


def test_an_unknown_model_type_is_told_every_one(capsys):
    assert main("evaluate", ["--model_type", "basline", "--libero_subset", "object"]) == 2
    error = capsys.readouterr().err
    assert "a phase (baseline, text_cot, text_flow_cot, one of configs/ablations/, or a phase's YAML file)" in error
    assert error.strip().endswith("or replay, expert, zero, random, full")


def test_report_of_nothing(capsys):
    assert main("make_report", []) == 2
    assert "run_experiment.py" in capsys.readouterr().err
