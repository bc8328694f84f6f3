"""`nora-ecot doctor --oracle`: what it prints, its exit codes, and one demonstration in the real simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.slices import DemosSlice
from data_pipeline.contract import EpisodeId, StageContext
from evaluation.oracle import Examination, Row
from evaluation.oracle_faults import Fault, Pairs, Part
from evaluation.oracle_path import Fidelity
from experiment.cli import main
from experiment.oracle import report
from tests.helpers.synthetic import write_synthetic_subset
from tests.helpers.tiny_adapter import write_tiny_adapter


def row(passed: int, raw: int = 20, demos: int = 20) -> Row:
    recorded = np.zeros((4, 7))
    recorded[:, 6] = (-1, -1, 1, 1)
    deployed = recorded + np.array([0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0])
    deployed[2, 6] = -1
    lost = tuple(EpisodeId(Subset.OBJECT, 3, demo) for demo in range(raw - passed))
    return Row(Subset.OBJECT, 4, 8, demos, raw, lost, Fidelity(Pairs(recorded, deployed), 6.9, ()))


def test_the_table_and_what_the_tokenizer_costs() -> None:
    lines = report({Subset.OBJECT: Examination((row(19),), ())}).splitlines()
    assert " ".join(lines[0].split()) == "subset chunk demos raw oracle rate position rotation gripper tokens"
    assert " ".join(lines[1].split()) == "object 4 of 8 20 20 19 95% 1.00 mm 5.0 mrad 1 of 4 6.9"
    assert lines[2] == (
        "object, chunks of 8, 4 executed: the tokenizer costs 1.00 mm and 5.0 mrad RMSE per axis and step, 1 of 20 "
        "successes lost: object/03/000"
    )
    assert lines[3] == "the path is right"


@pytest.mark.parametrize(
    ("examination", "good"),
    [
        (Examination((row(19),), ()), True),
        (Examination((row(18),), ()), False),
        (Examination((row(19, raw=19),), ()), False),  # one recording does not even succeed raw
        (Examination((row(20),), (Fault(Part.FRAME, "upside down"),)), False),
        (Examination((row(0, raw=0, demos=0),), ()), False),
    ],
)
def test_what_is_good_enough(examination: Examination, good: bool) -> None:
    assert examination.good is good


def test_losses_and_faults_are_named() -> None:
    faulty = Examination((row(18),), (Fault(Part.GRIPPER, "the gripper is inverted"),))
    lines = report({Subset.OBJECT: faulty}).splitlines()
    assert "FAULT object, gripper: the gripper is inverted" in lines
    assert "FAILED object, 4 executed: 90% of what succeeds raw survives, fewer than 95%" in lines
    unexplained = report({Subset.OBJECT: Examination((row(18),), ())})
    assert "fewer than 95%; no fault explains it: raise action.scale, or clip nothing" in unexplained
    assert lines[-1] == "the path is not right: mend it before training"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def oracle(*words: str) -> int:
    return main("doctor", ["--oracle", *words])


def test_wrong_words_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_subset(project / "demos", Subset.GOAL)
    for words, message in (
        (("--demos", "0"), "--demos=0 is out of range"),
        (("--data", "nowhere"), "--data nowhere does not exist"),
        (("--data", "demos", "--subset", "object"), "--subset object, but demos has goal"),
        (("--subset", "objct"), "did you mean 'object'"),
        (("--datta", "x"), "did you mean --data"),
    ):
        assert oracle(*words) == 2
        assert message in capsys.readouterr().err
    assert oracle("--adapter", "demos") == 78
    assert "no adapter_card.json" in capsys.readouterr().err


def test_a_wrong_chunk_length_needs_no_simulator(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_subset(project / "demos", Subset.OBJECT)
    adapter = write_tiny_adapter(project).checkpoint
    assert oracle("--data", "demos", "--adapter", str(adapter), "action.horizon=5", "action.execute=5") == 1
    said = capsys.readouterr().out
    assert "FAULT object, chunk length: action.horizon=5, but the deployed tokenizer spells chunks of 8 steps" in said


def test_noras_protocol_needs_chunks_of_five(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_subset(project / "demos", Subset.OBJECT)
    words = (
        "preset=tiny",
        "model.base=scratch",
        "action.horizon=4",
        "action.execute=4",
        "eval.protocol=nora",
        "env.assets=builtin",
    )
    assert oracle("--data", "demos", *words, "eval.protocol=nora") == 1
    said = capsys.readouterr().out
    assert "FAULT object, chunk length: the protocol nora executes 5 steps of chunks of 4; it always does; use" in said


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of turning on the stove."""
    folder = tmp_path_factory.mktemp("demos")
    env = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
    run_demos = pytest.importorskip("data_pipeline.sim.demos").run_demos
    run_demos(DemosSlice(Subset.GOAL, (7,), episodes_per_task=2, seed=3, env=env), StageContext(folder, {}))
    return folder


SMALL = (
    "preset=tiny",
    "env.assets=builtin",
    "env.resolution=64",
    "eval.sim_workers=1",
    "action.scale=10",
    "action.execute=4",
)


@pytest.mark.sim
def test_recorded_actions_survive_the_real_simulator(
    project: Path, demos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oracle("--data", str(demos), "--demos", "1", *SMALL) == 0
    said = capsys.readouterr().out
    assert [line.split()[:8] for line in said.splitlines() if line.split()[:1] == ["goal"]] == [
        ["goal", "4", "of", "8", "1", "1", "1", "100%"],
        ["goal", "8", "of", "8", "1", "1", "1", "100%"],
    ]
    assert "the path is right" in said


@pytest.mark.slow
@pytest.mark.sim
def test_another_look_in_the_real_simulator_is_another_picture(
    project: Path, demos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oracle("--data", str(demos), "--demos", "1", *SMALL, "env.look=official") == 1
    assert "FAULT goal, frame: the deployed frame shows another picture" in capsys.readouterr().out
