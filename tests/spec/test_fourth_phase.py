"""A fourth phase is one YAML file and no Python: flow without words, here."""

from experiment.cli import main
from tests.helpers import toy_study

FLOW_ONLY = """
defaults: [base, _self_, {preset: nora_3b}]
phase:
  segments:
    - {role: flow, source: flow, loss_weight: 0.25}
    - {role: action, source: action, loss_weight: 1.0}
"""


def test_stages_follow_from_the_segments(tmp_path, monkeypatch, capsys):
    toy_study.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow_only.yaml").write_text(FLOW_ONLY)
    assert main("run_experiment", ["--phase", "flow_only.yaml", "--subset", "goal", "preset=tiny"]) == 0
    trained = tmp_path / "outputs" / "flow_only" / "goal" / "checkpoint-final" / "adapter_model.safetensors"
    content = toy_study.trained_on(trained)
    assert sorted(content["inputs"]) == ["base", "regenerate", "split", "tokens"]
    assert [s["role"] for s in content["config"]["phase"]["segments"]] == ["flow", "action"]
    assert (tmp_path / "outputs" / "eval_results" / "results.md").read_text() == "| flow_only/goal |\n| replay/goal |\n"


def test_an_unknown_source_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(FLOW_ONLY.replace("source: flow", "source: depth"))
    assert main("run_experiment", ["--phase", "bad.yaml", "--subset", "goal", "preset=tiny"]) == 2
    assert "allowed: reasoning, flow, action" in capsys.readouterr().err
