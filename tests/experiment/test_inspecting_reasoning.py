"""`nora-ecot inspect --annotations`: what it writes of a finished study, and what it refuses."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.choices import Subset
from configs.data import FlowConfig
from configs.schema import EvalConfig
from experiment.cli import main
from experiment.inspecting_reasoning import _inspect_one, _Tokens
from tests.helpers.training_study import write_study


@pytest.fixture
def finished(tmp_path):
    """What the store of a finished study holds, as far as this command reads it."""
    study = write_study(tmp_path / "made", demos=2, steps=6)
    store = tmp_path / "outputs" / ".store"
    for stage, folder in {"annotate": study.folder, "regenerate": study.inputs["regenerate"]}.items():
        (store / stage).mkdir(parents=True)
        (store / stage / "key").symlink_to(folder)
    nodes = {
        stage: SimpleNamespace(stage=stage, key="key", label=f"{stage} object") for stage in ("annotate", "regenerate")
    }
    return SimpleNamespace(
        places=SimpleNamespace(store=store),
        config=SimpleNamespace(flow=FlowConfig(cells=4), eval=EvalConfig(max_new_tokens=200)),
        reasoning=lambda _: nodes["annotate"],
        regenerate=lambda _: nodes["regenerate"],
    )


def test_a_page_with_a_film_per_task_and_the_token_table(finished, tmp_path, capsys):
    values = Namespace(output=str(tmp_path / "shown"), output_dir=str(tmp_path / "outputs"), demos=1, data_dir=".")
    _inspect_one(values, finished, Subset.OBJECT, _Tokens(str.split, ""))
    said = capsys.readouterr().out
    assert "object: 4 demonstrations, 24 steps; written by stage annotate object, key" in said
    assert "cut at eval.max_new_tokens=200: 0.0 % of 24 samples" in said
    assert "with 16 flow codes: 0.0 % cut" in said
    films = sorted(path.name for path in Path(tmp_path / "shown").glob("*.mp4"))
    assert len(films) == 2, "one for each task"
    page = (tmp_path / "shown" / "annotations_object.html").read_text()
    assert all(f'src="{film}"' in page for film in films)
    assert "GRIPPER POSITION" in page


def test_without_the_bases_tokenizer_it_says_so(finished, tmp_path, capsys):
    values = Namespace(output=str(tmp_path / "shown"), output_dir=str(tmp_path / "outputs"), demos=0, data_dir=".")
    _inspect_one(values, finished, Subset.OBJECT, _Tokens(None, "tokens: not counted, because"))
    assert "tokens: not counted, because" in capsys.readouterr().out
    assert "<h2>Tokens</h2>" not in (tmp_path / "shown" / "annotations_object.html").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--annotations", "--data", "x"], "leave --data out"),
        (["--subset", "object", "--demos", "2"], "--demos says how many --annotations or --flow films"),
        (["--annotations"], "--subset NAME or --all-subsets"),
        (["--vocabulary", "qwen.tiktoken"], "--vocabulary counts for --annotations"),
        (["--annotations", "--subset", "object", "--demos", "-1"], "--demos=-1 is out of range"),
    ],
)
def test_what_does_not_go_together(argv, message, capsys):
    assert main("inspect", argv) == 2
    assert message in capsys.readouterr().err
