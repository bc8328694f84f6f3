"""Every command of the user's README works verbatim, in order, on the default paths.

The stages are toys; flags, paths, the order of work and what feeds what are real. `tests/spec/test_tiny_study.py`
(slow) runs the real ones.
"""

import json
import shlex
import shutil

import pytest

from experiment import results
from experiment.cli import main
from experiment.stages import STAGES, StageKind
from tests.helpers import toy_study

COMMANDS = """
python scripts/regenerate_libero.py --libero_task_suite libero_object --libero_raw_data_dir ./data/libero_object \
    --libero_target_dir ./data/libero_object_clean --image_resolution 256
python scripts/regenerate_libero.py --libero_task_suite libero_spatial --libero_raw_data_dir ./data/libero_spatial \
    --libero_target_dir ./data/libero_spatial_clean
python scripts/regenerate_libero.py --libero_task_suite libero_goal --libero_raw_data_dir ./data/libero_goal \
    --libero_target_dir ./data/libero_goal_clean
python scripts/regenerate_libero.py --libero_task_suite libero_10 --libero_raw_data_dir ./data/libero_10 \
    --libero_target_dir ./data/libero_10_clean
python scripts/run_experiment.py --phase baseline --subset object
python scripts/run_experiment.py --phase text_cot --subset object --llm-api-key YOUR_API_KEY
python scripts/run_experiment.py --phase text_flow_cot --subset object --llm-api-key YOUR_API_KEY
python scripts/run_experiment.py --all-phases --all-subsets --llm-api-key YOUR_API_KEY
python scripts/generate_ecot.py --subset object --api-key YOUR_OPENAI_API_KEY --model gpt-4 \
    --output annotations/object_ecot.json
python scripts/preprocess_flow.py --subset object --output flow_tokens/object_flow.json
python scripts/train_baseline.py --subset object --data_dir ./data --output_dir ./outputs
python scripts/train_text_cot.py --subset object --ecot_annotations annotations/object_ecot.json \
    --reasoning_dropout_prob 0.5
python scripts/train_text_flow_cot.py --subset object --ecot_annotations annotations/object_ecot.json \
    --flow_tokens flow_tokens/object_flow.json
python scripts/evaluate.py --model_type baseline --libero_subset object \
    --lora_path outputs/baseline/object/checkpoint-final --num_trials 50
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory with a space and Chinese characters in its name, without CUDA."""
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "my 项目"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def type_in(command):
    """Do what the script does, in this process."""
    words = shlex.split(command)
    assert words[0] == "python"
    name = words[1].removeprefix("scripts/").removesuffix(".py")
    if name.startswith("train_"):
        return main("train", words[2:], phase=name.removeprefix("train_"))
    return main(name, words[2:])


def commands():
    return [line for line in COMMANDS.replace("\\\n", " ").splitlines() if line.strip()]


def test_verbatim_in_order(project, capsys):
    for subset in ("object", "spatial", "goal", "long"):
        assert type_in(f"python scripts/generate_demos.py --subset {subset}") == 0
    capsys.readouterr()
    for command in commands():
        assert type_in(command) == 0, f"{command}\n{capsys.readouterr()}"
    for phase in ("baseline", "text_cot", "text_flow_cot"):
        for subset in ("spatial", "object", "goal", "long"):
            assert (project / "outputs" / phase / subset / "checkpoint-final" / "adapter_model.safetensors").is_file()
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    assert len(table) == 12 + 4, "three phases and the blind control on four subsets"
    assert table[0] == "| baseline/spatial |"
    summary = project / "outputs" / "eval_results" / "baseline" / "object" / "summary.json"
    assert json.loads(summary.read_text())["trials"] == 50
    assert (project / "data" / "libero_object_clean" / "task0_demo.hdf5").is_file()
    assert (project / "data" / "libero_object_expert" / "demos.json").is_file()
    assert (project / "annotations" / "object_ecot.json").is_file()


def test_no_secret_stays(project, capsys):
    assert type_in("python scripts/generate_ecot.py --subset object --api-key CANARY-123 --output a.json") == 0
    said = capsys.readouterr().out
    assert "reworded by gpt-4o-mini" in said
    assert "CANARY-123" not in said
    assert not [p for p in project.rglob("*") if p.is_file() and b"CANARY-123" in p.read_bytes()]


def test_without_demonstrations_the_message_names_the_remedy(project, capsys):
    assert type_in(commands()[0]) == 78
    assert "generate_demos.py --subset object" in capsys.readouterr().err


def test_same_command_again_runs_nothing_and_a_deleted_adapter_redoes_its_own(project, capsys):
    everything = "python scripts/run_experiment.py --all-phases --all-subsets"
    assert type_in(everything) == 0
    capsys.readouterr()
    assert type_in(everything) == 0
    assert "nothing to do" in capsys.readouterr().out
    shutil.rmtree(project / "outputs" / "text_cot" / "object")
    assert type_in(everything) == 0
    started = [line.partition("] ")[2].partition("start ")[2] for line in capsys.readouterr().out.splitlines()]
    started = [label for label in started if label]
    assert started == ["train text_cot/object", "evaluate text_cot/object", "report"]
    assert (project / "outputs" / "text_cot" / "object" / "checkpoint-final").is_dir()
    assert type_in(everything) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_report_again_gives_the_same_bytes(project):
    assert type_in("python scripts/run_experiment.py --phase baseline --subset object") == 0
    path = project / "outputs" / "eval_results" / "results.md"
    before = path.read_bytes()
    path.unlink()
    assert type_in("python scripts/make_report.py") == 0
    assert path.read_bytes() == before


def test_rows_of_earlier_runs_stay_in_the_table(project):
    assert type_in("python scripts/run_experiment.py --phase text_cot --subset goal") == 0
    assert type_in("python scripts/run_experiment.py --phase baseline --subset object") == 0
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    assert table == ["| baseline/object |", "| text_cot/goal |", "| replay/object |", "| replay/goal |"]


def test_an_adapter_that_fails_now_does_not_show_its_earlier_number(project, monkeypatch, capsys):
    command = "python scripts/run_experiment.py --phase baseline --subset object"
    assert type_in(command) == 0
    monkeypatch.setitem(STAGES, "train", StageKind(f"{toy_study.MODULE}:broken", "light", 2, 0.1))
    assert type_in(command) == 2
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    assert table == ["| replay/object |"]


def test_changed_settings_get_their_own_folder(project):
    assert type_in("python scripts/train_text_cot.py --subset object --reasoning_dropout_prob 0.3") == 0
    assert (project / "outputs" / "text_cot@prob0.3" / "object" / "checkpoint-final").is_dir()
    assert type_in("python scripts/train_text_cot.py --subset object --lora_rank 8 --name small") == 0
    assert (project / "outputs" / "text_cot@small" / "object").is_dir()


def test_training_flags_also_reach_the_whole_experiment(project):
    assert type_in("python scripts/run_experiment.py --phase baseline --subset object --lora_rank 8") == 0
    assert (project / "outputs" / "baseline@rank8" / "object" / "checkpoint-final").is_dir()


def test_editing_written_annotations_leaves_the_store_alone(project):
    assert type_in("python scripts/generate_ecot.py --subset object --output mine.json") == 0
    (stored,) = (project / "outputs" / ".store" / "annotate").glob("*/annotations.json")
    before = stored.read_bytes()
    with open(project / "mine.json", "r+b") as file:
        file.write(b"edited")
    assert stored.read_bytes() == before


def test_annotations_of_the_user_are_an_input_by_content(project, capsys):
    assert type_in("python scripts/train_text_cot.py --subset object --ecot_annotations missing.json") == 2
    assert "generate_ecot.py --subset object --output missing.json" in capsys.readouterr().err
    (project / "mine.json").write_text("{}")
    mine = "python scripts/train_text_cot.py --subset object --ecot_annotations mine.json"
    assert type_in(mine) == 0
    assert type_in(mine) == 0
    assert "nothing to do" in capsys.readouterr().out
    (project / "mine.json").write_text("{ }")
    assert type_in(mine + " --dry-run") == 0
    out = capsys.readouterr().out
    assert "another input annotate" in out


def test_an_adapter_is_evaluated_as_what_it_is(project, capsys):
    assert type_in("python scripts/train_text_cot.py --subset object --reasoning_dropout_prob 0.3") == 0
    path = "outputs/text_cot@prob0.3/object/checkpoint-final"
    assert type_in(f"python scripts/evaluate.py --model_type baseline --libero_subset object --lora_path {path}") == 2
    assert "trained as 'text_cot'" in capsys.readouterr().err
    assert type_in(f"python scripts/evaluate.py --model_type text_cot --libero_subset goal --lora_path {path}") == 2
    assert "trained on object" in capsys.readouterr().err
    assert type_in(f"python scripts/evaluate.py --model_type text_cot --libero_subset object --lora_path {path}") == 0
    assert (project / "outputs" / "eval_results" / "text_cot@prob0.3" / "object" / "summary.json").is_file()


def test_a_checkpoint_on_the_way_is_a_row_of_its_own(project, monkeypatch):
    monkeypatch.setattr(results, "folder_digest", lambda folder: "")  # the toys' base
    assert type_in("python scripts/train_text_cot.py --subset object --reasoning_dropout_prob 0.3") == 0
    folder = project / "outputs" / "text_cot@prob0.3" / "object"
    shutil.copytree(folder / "checkpoint-final", folder / "checkpoint-5")
    evaluate = "python scripts/evaluate.py --model_type text_cot --libero_subset object"
    for name in ("checkpoint-final", "checkpoint-5"):
        assert type_in(f"{evaluate} --lora_path 'outputs/text_cot@prob0.3/object/{name}'") == 0
    assert row_of(project, "text_cot@prob0.3/object")
    assert row_of(project, "text_cot@prob0.3+step5/object")


def test_a_merged_model_does_not_take_its_adapters_row(project):
    assert type_in("python scripts/train_baseline.py --subset object") == 0
    shutil.copytree(project / "outputs" / "baseline" / "object" / "checkpoint-final", project / "merged")
    card = project / "merged" / "adapter_card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weights": "merged"}))
    evaluate = "python scripts/evaluate.py --model_type baseline --libero_subset object --lora_path"
    for path in ("outputs/baseline/object/checkpoint-final", "merged"):
        assert type_in(f"{evaluate} {path}") == 0
    assert row_of(project, "baseline/object")
    assert row_of(project, "baseline@merged/object")


def row_of(project, slug):
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    return f"| {slug} |" in table


def test_controls_join_the_table_of_the_phases(project, capsys):
    assert type_in("python scripts/run_experiment.py --phase baseline --subset object") == 0
    for control in ("zero", "random", "expert"):
        assert type_in(f"python scripts/evaluate.py --model_type {control} --libero_subset object --num_trials 50") == 0
    assert type_in("python scripts/evaluate.py --model_type replay --libero_subset object") == 0
    assert "nothing to do" in capsys.readouterr().out, "the study has its replay row already"
    slugs = ("baseline/object", "expert/object", "random/object", "replay/object", "zero/object")
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    assert table == [f"| {slug} |" for slug in slugs]
    assert type_in("python scripts/run_experiment.py --phase text_cot --subset object") == 0
    assert all(row_of(project, slug) for slug in (*slugs, "text_cot/object"))
    assert type_in("python scripts/make_report.py") == 0
    assert all(row_of(project, slug) for slug in (*slugs, "text_cot/object"))


def test_a_control_alone_is_a_table_and_other_settings_are_another(project):
    assert type_in("python scripts/evaluate.py --model_type zero --libero_subset object") == 0
    assert row_of(project, "zero/object")
    assert type_in("python scripts/evaluate.py --model_type zero --libero_subset goal --protocol nora") == 0
    assert row_of(project, "zero/goal")
    assert not row_of(project, "zero/object")


def test_some_tasks_are_a_row_of_their_own(project):
    assert type_in("python scripts/train_baseline.py --subset object") == 0
    path = "outputs/baseline/object/checkpoint-final"
    evaluate = f"python scripts/evaluate.py --model_type baseline --libero_subset object --lora_path {path}"
    assert type_in(evaluate) == 0
    assert type_in(f"{evaluate} --tasks 3") == 0
    assert row_of(project, "baseline/object")
    assert row_of(project, "baseline@tasks3/object")
    found = project / "outputs/eval_results/baseline@tasks3/object/videos/one.mp4"
    assert json.loads(found.read_text())["config"]["tasks"] == [3]
    assert type_in(f"{evaluate} --tasks 0,3 --dry-run") == 0
    assert type_in("python scripts/evaluate.py --model_type replay --libero_subset object --tasks 3") == 0
    assert row_of(project, "replay@tasks3/object")


def test_libero_90_is_evaluated_where_its_objects_are(project, capsys, monkeypatch):
    monkeypatch.delenv("LIBERO_ASSETS_PATH", raising=False)
    assert type_in("python scripts/train_baseline.py --subset object") == 0
    path = "outputs/baseline/object/checkpoint-final"
    evaluate = f"python scripts/evaluate.py --model_type baseline --libero_subset 90 --lora_path {path}"
    capsys.readouterr()
    assert type_in(evaluate) == 78
    said = capsys.readouterr()
    assert "lack new_salad_dressing, white_bowl, wooden_tray" in said.err
    assert "env.assets=official; or leave those tasks out: --tasks 0-34," in said.err
    assert "start" not in said.out
    assert type_in(f"{evaluate} --tasks 0-2") == 0
    assert row_of(project, "baseline@from_object+tasks0-2/90")
    assert type_in("python scripts/evaluate.py --model_type zero --libero_subset libero_90 --tasks 7") == 0
    assert row_of(project, "zero@tasks7/90")


FULL = "python scripts/evaluate.py --model_type full --libero_subset object action.tokenizer=physical-intelligence/fast"


def test_a_full_checkpoint_is_a_table_of_its_own(project, capsys):
    assert type_in("python scripts/evaluate.py --model_type zero --libero_subset object") == 0
    (project / "my model").mkdir()
    (project / "my model" / "config.json").write_text("{}")
    five = "action.horizon=5 action.execute=5"
    assert type_in(f"{FULL} --lora_path 'my model' {five}") == 2
    assert "there: none. Name one of them with --unnorm_key" in capsys.readouterr().err
    assert type_in(f"{FULL} --lora_path 'my model' --statistics nora {five}") == 0
    assert "full checkpoint: local:" in capsys.readouterr().out
    table = (project / "outputs" / "eval_results" / "results.md").read_text().splitlines()
    assert table == ["| full@my-model/object |"]
    hub = "declare-lab/nora-long-finetuned-libero-object@" + "a" * 40
    assert type_in(f"{FULL} --lora_path {hub}") == 2
    assert "predicts chunks of 5, and action.horizon=8; add action.horizon=5" in capsys.readouterr().err
    assert type_in(f"{FULL} --lora_path {hub} {five}") == 0
    assert row_of(project, "full@nora-long-finetuned-libero-object/object")
    assert not row_of(project, "full@my-model/object")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--model_type full --lora_path x", "action.tokenizer=fit, but a full checkpoint"),
        ("--model_type full --lora_path x action.tokenizer=y", "--lora_path 'x': no such folder, and no hub id"),
        ("--model_type full --lora_path a/b@main action.tokenizer=y", "with @ and 40 hex digits"),
        ("--model_type full --mode think --lora_path a/b action.tokenizer=y", "has no reasoning"),
        ("--model_type zero --statistics nora", "--statistics is for --model_type full"),
        ("--model_type zero --lora_path x", "zero is a control and has no adapter"),
        ("--model_type zero --mode think", "zero is a control and cannot think"),
        ("--model_type baseline", "--lora_path is needed"),
        (
            "--model_type expart --lora_path x",
            "--model_type 'expart'; allowed: a phase (baseline, text_cot",
        ),
        ("--model_type zero --tasks 1", "tasks '1'; allowed: numbers of 0,3"),
        ("--model_type zero --tasks 3,3", "each once"),
        ("--model_type replay --libero_subset 90", "replay needs demonstrations"),
        ("--model_type zero --num_workers 0", "--num_workers=0 is out of range"),
    ],
)
def test_what_evaluate_refuses(project, capsys, argv, says):
    subset = "" if "libero_subset" in argv else "--libero_subset object "
    assert type_in(f"python scripts/evaluate.py {subset}{argv} preset=tiny") == 2
    assert says in capsys.readouterr().err


def test_evaluating_at_3b_asks_for_no_demonstrations_unless_they_are_replayed(project, capsys):
    settings = "preset=nora_3b env.assets=builtin"
    for control in ("zero", "expert"):
        assert type_in(f"python scripts/evaluate.py --model_type {control} --libero_subset object {settings}") == 0
    capsys.readouterr()
    assert type_in(f"python scripts/evaluate.py --model_type replay --libero_subset object {settings}") == 78
    assert "no LIBERO demonstrations" in capsys.readouterr().err
