"""What a run computes depends on its global batch and its steps: not on pieces, processes, memory or a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs.checks import ConfigError
from configs.choices import Tune
from configs.model import LoraConfig
from data_pipeline.contract import EnvironmentProblem, StageContext
from experiment.training import run_train
from tests.helpers.tiny_adapter import TEXT_FLOW_COT
from tests.helpers.training_study import TRAINER, Study
from tests.training.test_lora_trainer import FORK, kill_at, outputs, rows
from training import gradient
from training.batch import Batch
from training.checkpoint import METRICS_FILE, save
from training.loaded_policy import load_checkpoint
from training.timing import TIMING_FILE
from training.whole_model import WEIGHTS

PLAIN = LoraConfig(rank=4, alpha=8, dropout=0.0)  # dropout draws differ between pieces, and may
GOLDEN_RATES = [5.0e-4, 1.0e-3, 1.0e-3, 8.535533905932737e-4, 5.0e-4, 1.4644660940672628e-4]
"""Two steps of warm-up to 1e-3, then a cosine over four."""


def losses(work: Path) -> list[dict[str, float]]:
    named = ("loss", "grad_norm")
    return [{k: v for k, v in row.items() if k.startswith(named) and v is not None} for row in rows(work)]


def assert_same_run(one: Path, other: Path, relative: float) -> None:
    for a, b in zip(losses(one), losses(other), strict=True):
        assert a == pytest.approx(b, rel=relative)
    weights = [load_file(work / "checkpoint-final" / "adapter_model.safetensors") for work in (one, other)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=relative)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_rate_depends_on_optimiser_steps_alone(study: Study, accumulation: int) -> None:
    work = study.train(f"rate{accumulation}", steps=6, accumulation=accumulation)
    assert [row["lr"] for row in rows(work)] == pytest.approx(GOLDEN_RATES, rel=1e-12)


def test_accumulation_is_the_larger_batch(study: Study) -> None:
    """Eight samples in one piece, two, four: the same run."""
    cuts = [(8, 1), (4, 2), (2, 4)]
    works = [
        study.train(f"cut{size}", TEXT_FLOW_COT, steps=4, batch_size=size, accumulation=accumulation, lora=PLAIN)
        for size, accumulation in cuts
    ]
    for work in works[1:]:
        assert_same_run(work, works[0], 1e-5)


def short_memory(rows_that_fit: int) -> Callable[..., object]:
    genuine = gradient.token_losses

    def limited(network: object, batch: Batch) -> object:
        if len(batch.input_ids) > rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(network, batch)  # pyright: ignore[reportArgumentType]

    return limited


def test_short_memory_makes_smaller_pieces_of_the_same_batch(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = study.train("enough", TEXT_FLOW_COT, steps=4, batch_size=8, lora=PLAIN)
    monkeypatch.setattr(gradient, "token_losses", short_memory(2))
    found = study.train("short", TEXT_FLOW_COT, steps=4, batch_size=8, lora=PLAIN)
    assert_same_run(found, wanted, 1e-5)
    state = json.loads((found / "resume" / "step-000004" / "state.json").read_text())
    assert state["rows"] in (1, 2)


def test_a_batch_is_never_made_smaller_than_asked(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "token_losses", short_memory(0))
    with pytest.raises(EnvironmentProblem, match=r"trainer\.gradient_checkpointing=true"):
        study.train("none_fits", steps=2)


def test_gradient_checkpointing_changes_no_loss(study: Study) -> None:
    plain = study.train("remembered", TEXT_FLOW_COT)
    again = study.train("recomputed", TEXT_FLOW_COT, trainer=replace(TRAINER, gradient_checkpointing=True))
    assert_same_run(again, plain, 1e-6)


def test_checkpoints_that_stay(study: Study) -> None:
    """Every second step but the last can be evaluated; the run itself is what it was."""
    plain = study.train("not_kept", TEXT_FLOW_COT, steps=5)
    kept = study.train("kept", TEXT_FLOW_COT, steps=5, trainer=replace(TRAINER, keep_every=2))
    assert outputs(kept) == outputs(plain)
    assert sorted(p.name for p in kept.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4", "checkpoint-final"]
    early = load_checkpoint(kept / "checkpoint-2", study.inputs["base"] / "base", "cpu", torch.float32)
    assert early.card.steps == 2
    assert sorted(p.name for p in (kept / "resume").iterdir()) == ["step-000002", "step-000004"]


def test_the_millionth_step_is_newer_than_those_before(tmp_path: Path) -> None:
    for name in (METRICS_FILE, TIMING_FILE):
        (tmp_path / name).touch()
    first = SimpleNamespace(is_main_process=True)
    optimizer = torch.optim.SGD([torch.zeros(1)])
    run: Any = SimpleNamespace(skipped_in_row=0, rows=0, parameters={}, optimizer=optimizer, accelerator=first)
    for run.step in (999_998, 999_999, 1_000_000):
        save(run, tmp_path)
    assert {p.name for p in (tmp_path / "resume").iterdir()} == {"step-999999", "step-1000000"}


def test_more_processes_than_devices_are_refused_before_any_starts(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    shared = replace(TRAINER, processes=2, device="auto")
    with pytest.raises(ConfigError, match=r"trainer\.processes=2, .* allowed here: 1 to 1"):
        study.train("too_many", trainer=shared)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(study: Study) -> None:
    one = study.train("one_process", TEXT_FLOW_COT, steps=4, batch_size=4, accumulation=2, lora=PLAIN)
    shared = replace(TRAINER, processes=2, num_workers=1)
    two = study.train("two_processes", TEXT_FLOW_COT, steps=4, batch_size=4, lora=PLAIN, trainer=shared)
    assert_same_run(two, one, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_step_with_any_workers(study: Study, workers: int) -> None:
    """Killed at every step in turn, each time with another number of workers."""
    whole = outputs(study.train(f"never_killed{workers}", TEXT_FLOW_COT, steps=5))
    context = study.context(f"often_killed{workers}")
    for step in range(1, 6):
        trainer = replace(TRAINER, num_workers=workers if step % 2 else 2 - workers)
        kill_at(step, run_train, study.train_slice(TEXT_FLOW_COT, steps=5, trainer=trainer), context)
    run_train(study.train_slice(TEXT_FLOW_COT, steps=5, trainer=replace(TRAINER, num_workers=workers)), context)
    assert outputs(context.work) == whole


SHARED = replace(TRAINER, processes=2, checkpoint_every=2)


def in_a_child(study: Study, context: StageContext, at_step_3: Callable[[int], None]) -> int:
    """Exit code of a run of two processes, 5 steps, in a child of its own. at_step_3: is given the other's id."""

    def report(done: int, total: int, note: str) -> None:
        if done == 3:
            (other,) = multiprocessing.active_children()
            (context.work / "other").write_text(str(other.pid))
            assert other.pid is not None
            at_step_3(other.pid)

    config = study.train_slice(TEXT_FLOW_COT, steps=5, trainer=SHARED)
    child = FORK.Process(target=run_train, args=(config, replace(context, report=report)))
    child.start()
    child.join(120)
    assert child.exitcode is not None, "it waits for ever"
    return child.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank 0", "rank 1"])
def test_a_process_that_is_killed_takes_the_others_with_it_and_the_run_resumes(
    study: Study, victim: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = outputs(study.train("both_alive", TEXT_FLOW_COT, steps=5, trainer=SHARED))
    context = study.context(f"lost_{victim}")
    code = in_a_child(study, context, lambda pid: os.kill(pid if victim == "rank 1" else os.getpid(), signal.SIGKILL))
    assert code == -signal.SIGKILL
    if victim == "rank 1":
        assert "process 1 of 2 was killed by SIGKILL" in capfd.readouterr().err
    other = int((context.work / "other").read_text())
    wait_until(lambda: not Path(f"/proc/{other}").exists(), 5)
    run_train(study.train_slice(TEXT_FLOW_COT, steps=5, trainer=SHARED), context)
    assert outputs(context.work) == whole


@pytest.mark.slow
def test_a_model_shared_out_over_two_processes_is_one_whole_model(study: Study) -> None:
    """FSDP: one process with twice the accumulation, to rounding; killed between checkpoints it goes on bit for bit."""
    full = {"tune": Tune.FULL, "steps": 5, "batch_size": 3}  # kinds of sample differ in number: so do the pieces
    alone = study.train("whole_model", TEXT_FLOW_COT, accumulation=2, **full)
    shard = replace(SHARED, shard=True, keep_every=3)
    shared = study.train("shared_out", TEXT_FLOW_COT, trainer=shard, **full)
    for a, b in zip(losses(shared), losses(alone), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    names = ("checkpoint-3", "checkpoint-final")
    ours, theirs = load_file(shared / names[1] / WEIGHTS), load_file(alone / names[1] / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    context = study.context("shared_out_killed")
    config = study.train_slice(TEXT_FLOW_COT, trainer=shard, **full)
    kill_at(3, run_train, config, context)
    run_train(config, context)
    for name in names:
        assert (context.work / name / WEIGHTS).read_bytes() == (shared / name / WEIGHTS).read_bytes()
    assert outputs(context.work) == outputs(shared)


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
