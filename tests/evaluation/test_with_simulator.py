"""The whole stage on the real simulator with a random adapter: one task of libero_spatial, built-in assets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.choices import Look, Mode, Subset
from configs.data import EnvConfig
from configs.model import TrainerConfig
from configs.schema import EvalConfig
from configs.slices import EvaluateSlice
from data_pipeline.contract import Interrupted, StageContext
from data_pipeline.libero_utils import MAX_STEPS
from evaluation.libero_eval import run_evaluate
from evaluation.records import FILES
from evaluation.simulators import release_pool
from tests.helpers.tiny_adapter import TEXT_COT, write_tiny_adapter


def evaluate(
    root: Path, work: Path, workers: int, slots: int = 1, stop_after: int | None = None, **changes: object
) -> list[dict[str, object]]:
    """Episodes of one task; stop_after: of how many finished episodes the stage is interrupted."""
    work.mkdir(exist_ok=True)
    done: list[int] = []
    values = {"num_trials": 1, "think_trials": 1, "freeze_chunks": 4, "max_new_tokens": 30, "videos": 1, **changes}
    config = EvaluateSlice(
        subset=Subset.SPATIAL,
        tasks=(0,),
        modes=(Mode.NO_THINK, Mode.THINK),
        eval=EvalConfig(batch_rows=2, sim_workers=workers, envs_per_worker=slots, **values),
        env=EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128),
        trainer=TrainerConfig(torch_threads=1, device="cpu"),
        execute=8,
    )
    context = StageContext(
        work,
        {"adapter": root, "base": root},
        report=lambda finished, total, note: done.append(finished),
        stop_requested=lambda: stop_after is not None and len(done) >= stop_after,
    )
    outputs = run_evaluate(config, context)
    release_pool()
    assert outputs == FILES
    return [json.loads(line) for line in (work / "episodes.jsonl").read_text().splitlines()]


@pytest.mark.sim
def test_a_random_adapter_from_checkpoint_to_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_STEPS, Subset.SPATIAL, 60)
    write_tiny_adapter(tmp_path, TEXT_COT, subset=Subset.SPATIAL)
    rows = evaluate(tmp_path, tmp_path / "one", workers=1)
    assert [(r["mode"], r["outcome"], r["reason"], r["steps"]) for r in rows] == [
        ("no_think", "failure", "step limit", 60),
        ("think", "failure", "step limit", 60),
    ]
    assert [r["queries"] for r in rows] == [8, 8]
    assert rows[0]["task_name"] == "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
    summary = json.loads((tmp_path / "one/summary.json").read_text())
    assert summary["fingerprint"]["mujoco"] == "3.3.2"
    assert summary["card"]["computed"] == "cpu float32"
    assert summary["modes"]["think"]["reasoning_forced"] == 2  # eight queries, one reasoning for four
    assert len(list((tmp_path / "one/videos").iterdir())) == 2

    # Another pool, two processes: each episode in its own, freshly built environment.
    evaluate(tmp_path, tmp_path / "two", workers=2)
    assert (tmp_path / "one/episodes.jsonl").read_bytes() == (tmp_path / "two/episodes.jsonl").read_bytes()
    for film in (tmp_path / "one/videos").iterdir():
        assert film.read_bytes() == (tmp_path / "two/videos" / film.name).read_bytes()


@pytest.mark.sim
@pytest.mark.slow
def test_processes_environments_and_interruptions_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deterministic mode: who shares a batch, in which process and after what, is in no record."""
    monkeypatch.setitem(MAX_STEPS, Subset.SPATIAL, 24)
    write_tiny_adapter(tmp_path, TEXT_COT, subset=Subset.SPATIAL)

    def published(name: str, workers: int, slots: int, stop_after: int | None = None) -> dict[str, bytes]:
        evaluate(tmp_path, tmp_path / name, workers, slots, stop_after, num_trials=4, think_trials=2)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        return {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in files
            if not path.name.startswith(("timing", "ledger"))
        }

    expected = published("1x1", 1, 1)
    assert json.loads(expected["summary.json"])["modes"]["think"]["trials"] == 2
    for workers, slots in ((1, 3), (2, 2), (4, 1)):
        assert published(f"{workers}x{slots}", workers, slots) == expected, (workers, slots)
    with pytest.raises(Interrupted):
        published("cut", 2, 2, stop_after=2)
    assert published("cut", 1, 2) == expected
