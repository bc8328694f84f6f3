"""The one loop: exact resume, bad steps, and that it learns."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from configs.building import build
from configs.checks import ConfigError
from configs.model import LoraConfig, OptimizerConfig
from configs.phases import PhaseSpec
from data_pipeline.contract import Interrupted, StageContext
from experiment.training import run_train
from tests.helpers.tiny_adapter import BASELINE, TEXT_COT, TEXT_FLOW_COT
from tests.helpers.training_study import TRAINER, Study, write_study
from training import loop
from training.base_folder import SCRATCH
from training.base_trainer import run_base
from training.loaded_policy import load_checkpoint
from training.loop import TrainingDiverged, learning_rate
from training.run import Run

STEPS = 5
FORK = multiprocessing.get_context("fork")


def rows(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def outputs(work: Path) -> dict[str, bytes]:
    files = [work / "metrics.jsonl", *(p for name in ("checkpoint-final", "base") for p in (work / name).rglob("*"))]
    return {str(p.relative_to(work)): p.read_bytes() for p in files if p.is_file()}


# ------------------------------------------------------------------ exact resume


def kill_at(step: int, stage: object, config: object, context: StageContext) -> None:
    """Run a stage in a child that is killed, without warning, when it reports `step`."""

    def report(done: int, total: int, note: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=stage, args=(config, replace(context, report=report)))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def test_a_killed_run_resumes_bit_for_bit(study: Study) -> None:
    """Whether it dies before the first checkpoint (step 2), after it, or in the last step; workers or not."""
    whole = outputs(study.train("whole", TEXT_FLOW_COT, steps=STEPS))
    config = study.train_slice(TEXT_FLOW_COT, steps=STEPS)
    context = study.context("killed")
    for step in (1, 3, 5):
        kill_at(step, run_train, config, context)
    run_train(replace(config, trainer=replace(TRAINER, num_workers=1)), context)
    assert outputs(context.work) == whole
    assert len(rows(context.work)) == STEPS


def test_a_stop_request_finishes_the_step_saves_and_resumes(study: Study) -> None:
    whole = outputs(study.train("whole_stop", steps=STEPS))
    done: list[int] = []
    context = study.context(
        "stopped", report=lambda step, total, note: done.append(step), stop_requested=lambda: len(done) == 3
    )
    with pytest.raises(Interrupted):
        run_train(study.train_slice(steps=STEPS), context)
    assert len(rows(context.work)) == 3
    run_train(study.train_slice(steps=STEPS), replace(context, stop_requested=lambda: False))
    assert outputs(context.work) == whole
    assert done == [1, 2, 3, 4, 5]


def test_the_base_resumes_bit_for_bit(study: Study) -> None:
    contexts = [replace(study.context(name), inputs=study.base_inputs()) for name in ("base_whole", "base_killed")]
    run_base(study.base_slice(STEPS), contexts[0])
    kill_at(3, run_base, study.base_slice(STEPS), contexts[1])
    run_base(study.base_slice(STEPS), contexts[1])
    assert outputs(contexts[1].work) == outputs(contexts[0].work)
    files = ("config.json", "model.safetensors", "action_tokenizer.json", "dataset_statistics.json")
    assert {f"base/{name}" for name in files} <= outputs(contexts[0].work).keys()


def test_an_adapter_takes_the_scale_that_its_base_brings(study: Study) -> None:
    """Where the graph gives no statistics of the subset, those in the base's folder are used, saved and on the card."""
    base_context = replace(study.context("base_of_its_own"), inputs=study.base_inputs())
    run_base(study.base_slice(1), base_context)
    inputs = {name: path for name, path in study.inputs.items() if name not in ("stats", "base")}
    context = replace(study.context("on_it"), inputs=inputs | {"base": base_context.work})
    run_train(study.train_slice(steps=1), context)
    scale = base_context.work / "base" / "dataset_statistics.json"
    made = context.work / "checkpoint-final"
    assert (made / scale.name).read_bytes() == scale.read_bytes()
    assert json.loads((made / "adapter_card.json").read_text())["statistics"] == "tiny_base"


def test_settings_that_are_not_in_the_key_do_not_change_the_result(study: Study) -> None:
    other = replace(TRAINER, checkpoint_every=1, log_every=7, num_workers=2)
    assert outputs(study.train("key_a")) == outputs(study.train("key_b", trainer=other))


def test_another_seed_gives_another_result(study: Study) -> None:
    assert outputs(study.train("seed_a")) != outputs(study.train("seed_b", seed=43))


# ------------------------------------------------------------------ schedule and faults


def test_the_rate_rises_falls_and_ends() -> None:
    schedule = OptimizerConfig(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(schedule, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def poison(monkeypatch: pytest.MonkeyPatch, bad: range) -> None:
    """Make the loss of some steps NaN (steps count from 0)."""
    genuine, calls = loop.train_step, iter(range(10**6))

    def poisoned(run: Run, step_input: object) -> dict[str, object]:
        factor = float("nan") if next(calls) in bad else 1.0
        monkeypatch.setattr(run, "role_weights", {role: factor for role in run.role_weights})
        return genuine(run, step_input)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loop, "train_step", poisoned)


def test_a_bad_step_is_skipped_and_counted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, range(1, 3))
    work = study.train("nan", steps=5)
    assert [r["skipped"] for r in rows(work)] == [False, True, True, False, False]
    assert [r["loss"] is None for r in rows(work)] == [False, True, True, False, False]
    assert all(np.isfinite(r["grad_norm"]) for r in rows(work) if not r["skipped"])


def test_ten_bad_steps_in_a_row_stop_the_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, range(2, 100))
    with pytest.raises(TrainingDiverged, match="10 steps in a row, up to step 12"):
        study.train("diverged", steps=20)
    kept = sorted((study.context("diverged").work / "resume").glob("step-*"))
    weights = [load_file(folder / "weights.safetensors") for folder in kept]
    assert [folder.name for folder in kept] == ["step-000008", "step-000010"]
    assert all(value.isfinite().all() for value in weights[1].values())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())  # skipped: nothing moved


def test_what_is_missing_is_named_before_any_training(study: Study) -> None:
    context = study.context("missing")
    without = replace(context, inputs={k: v for k, v in context.inputs.items() if k != "annotate"})
    with pytest.raises(ConfigError, match=r"generate_ecot\.py --subset object"):
        run_train(study.train_slice(TEXT_COT), without)
    unknown = build(
        PhaseSpec,
        {"name": "x", "segments": [{"role": "text", "source": "dreams"}, {"role": "action", "source": "action"}]},
    )
    with pytest.raises(ConfigError, match="dreams"):
        run_train(study.train_slice(unknown), context)
    few_rows = replace(study.model, base=SCRATCH, flow_rows=3)
    with pytest.raises(ConfigError, match=r"model\.flow_rows=26"):
        run_train(study.train_slice(TEXT_FLOW_COT, model=few_rows), context)


# ------------------------------------------------------------------ it trains


@pytest.mark.parametrize("phase", [BASELINE, TEXT_COT, TEXT_FLOW_COT])
def test_the_loss_of_every_role_falls(study: Study, phase: PhaseSpec) -> None:
    work = study.train(
        f"falls_{phase.name}",
        phase,
        steps=15,
        reasoning_dropout_prob=0.0,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        lora=LoraConfig(rank=8, alpha=32, dropout=0.0),
    )
    for key in (k for k in rows(work)[0] if k.startswith("loss_")):
        curve = [r[key] for r in rows(work)]
        assert np.mean(curve[-5:]) < 0.95 * np.mean(curve[:3]), (key, curve)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_learns_on_a_quantised_base(study: Study, bits: int) -> None:
    lora = LoraConfig(rank=8, alpha=32, dropout=0.0, base_bits=bits)
    schedule = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    work = study.train(f"bits{bits}", TEXT_COT, steps=12, lora=lora, optimizer=schedule, reasoning_dropout_prob=0.0)
    curve = [r["loss"] for r in rows(work)]
    assert np.mean(curve[-4:]) < 0.95 * np.mean(curve[:3])
    load_checkpoint(work / "checkpoint-final", study.inputs["base"] / "base", "cpu", torch.float32)


def test_a_fourth_phase_is_data(study: Study) -> None:
    """Flow before text: no Python knows it."""
    segments = [
        {"role": "flow", "source": "flow", "loss_weight": 0.2},
        {"role": "text", "source": "reasoning", "loss_weight": 0.3},
        {"role": "action", "source": "action"},
    ]
    phase = build(PhaseSpec, {"name": "flow_first", "segments": segments})
    work = study.train("fourth", phase, reasoning_dropout_prob=0.0)
    assert {"loss_flow", "loss_text", "loss_action"} <= rows(work)[0].keys()
    loaded = load_checkpoint(work / "checkpoint-final", study.inputs["base"] / "base", "cpu", torch.float32)
    assert loaded.card.phase == phase


def test_training_only_changes_the_adapter(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    before = {p.name: p.read_bytes() for p in (study.inputs["base"] / "base").iterdir()}
    study.train("a")
    assert {p.name: p.read_bytes() for p in (study.inputs["base"] / "base").iterdir()} == before
