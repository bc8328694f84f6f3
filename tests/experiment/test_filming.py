"""`nora-ecot film`: any episode from the published files alone, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem
from experiment import filming
from experiment.cli import main
from tests.evaluation.fakes import FACTORY, FakePolicy
from tests.evaluation.test_rollout import published, run

EPISODE = ["--task", "3", "--init_state", "1"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film") / "text_cot"
    run(folder, policy=FakePolicy(), num_trials=2, videos=1)
    (folder / "ledger.sqlite").unlink()
    return folder


def film(folder: Path, *arguments: str) -> int:
    return filming.main([str(folder), *EPISODE, *arguments], FACTORY)


def test_an_episode_that_was_not_filmed_is_filmed(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = published(evaluated)
    assert film(evaluated) == 0
    assert b"avc1" in (tmp_path / "no_think_task03_init01_seed0.mp4").read_bytes()
    assert "no_think_task03_init01_seed0.mp4: do task 3: success after" in capsys.readouterr().out
    assert published(evaluated) == before, "what was published stays as it is"


def test_a_film_made_again_is_the_published_one(evaluated: Path, tmp_path: Path) -> None:
    output = tmp_path / "new/again.mp4"
    assert (
        filming.main([str(evaluated), "--task=0", "--init-state=0", "--mode=think", f"--output={output}"], FACTORY) == 0
    )
    assert output.read_bytes() == (evaluated / "videos/think_task00_init00_seed0.mp4").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "5"], "no episode with --task 5; there are: 0, 3"),
        (["--init_state", "9"], "no episode with --init_state 9; there are: 0, 1"),
        (["--seed", "4"], "no episode with --seed 4; there are: 0"),
        (["--mode", "think"], "no episode with --init_state 1; there are: 0"),
        (["--output", "film.avi"], r"allowed: a name in \.mp4"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(evaluated: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        film(evaluated, *arguments)


def test_a_folder_that_is_no_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("film", [str(tmp_path), *EPISODE]) == 2
    assert "no episodes.jsonl: it is no finished evaluation" in capsys.readouterr().err


def _elsewhere(evaluated: Path, folder: Path) -> Path:
    """The same evaluation, run where the look was another."""
    from evaluation.identity import identity_of

    folder.mkdir()
    for name in ("actions.npz", "thoughts.jsonl"):
        (folder / name).write_bytes((evaluated / name).read_bytes())
    summary = json.loads((evaluated / "summary.json").read_text())
    summary["fingerprint"]["look"] = "light"
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [json.loads(line) for line in (evaluated / "episodes.jsonl").read_text().splitlines()]
    columns = identity_of(summary).columns
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row | columns) + "\n" for row in rows))
    return folder


def test_another_environment_is_refused_with_both_values(evaluated: Path, tmp_path: Path) -> None:
    folder = _elsewhere(evaluated, tmp_path / "w")
    with pytest.raises(EnvironmentProblem, match=r"recorded and here: look: 'light' and 'official'"):
        film(folder)


def test_by_force_the_film_says_where_and_how_it_was_made(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = _elsewhere(evaluated, tmp_path / "w"), tmp_path / "f.mp4"
    assert film(folder, "--force", "--output", str(output)) == 0
    said = capsys.readouterr().out
    assert "Filmed in another environment than it was evaluated in (look: 'light' and 'official')" in said
    assert "ended otherwise" not in said
    assert output.is_file()


def test_actions_that_do_something_else_are_no_film(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    for name in ("summary.json", "episodes.jsonl", "thoughts.jsonl"):
        (folder / name).write_bytes((evaluated / name).read_bytes())
    actions = np.load(evaluated / "actions.npz")
    np.savez(folder / "actions.npz", **{name: -actions[name] for name in actions.files})
    with pytest.raises(EnvironmentProblem, match="outcome: 'success' and 'failure'"):
        film(folder)
    (folder / "actions.npz").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"actions\.npz is damaged"):
        film(folder)
