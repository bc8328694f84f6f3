"""The real stages, shrunk further: one cell end to end, killed on the way, equals the uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHASE = "text_flow_cot"
SMALL = [
    "preset=tiny",
    "data.demos_per_task=2",
    "data.tasks.spatial=[0]",
    "data.tasks.object=[0]",
    "data.tasks.goal=[7]",
    "data.tasks.long=[5]",
    "model.base=scratch",
    "base.steps=6",
    "max_train_steps=6",
    "trainer.checkpoint_every=2",
    "eval.num_trials=2",
    "eval.max_new_tokens=8",
    "eval.videos=1",
]
DATA_STAGES = ("demos", "regenerate", "split", "stats", "annotate", "flow", "tokens")

pytestmark = [pytest.mark.slow, pytest.mark.sim]


def command(folder):
    script = str(ROOT / "scripts" / "run_experiment.py")
    places = ["--output_dir", str(folder / "outputs"), "--data_dir", str(folder / "data")]
    return [sys.executable, script, "--phase", PHASE, "--subset", "object", "--name", "small", *places, *SMALL]


def run(folder):
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def results(folder):
    """What may not depend on interruptions."""
    outputs = folder / "outputs"
    manifests = {path: json.loads(path.read_text()) for path in outputs.glob(".store/*/*/manifest.json")}
    digests = {f"{m['stage']}/{m['key']}": m["output"] for m in manifests.values() if m["stage"] in ("base", "train")}
    cell = Path(PHASE + "@small") / "object"
    return {
        "digests": digests,
        "table": (outputs / "eval_results" / "results.md").read_text(),
        "episodes": (outputs / "eval_results" / cell / "episodes.jsonl").read_text(),
        "adapter": (outputs / cell / "checkpoint-final" / "adapter_model.safetensors").read_bytes(),
    }


def kill_during(folder, stage, after_s):
    """Start the run, wait until a stage works, then SIGKILL the driver."""
    process = subprocess.Popen(command(folder), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if f"start {stage}" in line:
            time.sleep(after_s)
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_study_equals_the_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole)
    for stage in DATA_STAGES:
        shutil.copytree(whole / "outputs" / ".store" / stage, killed / "outputs" / ".store" / stage)
    for stage, after_s in (("base", 12), ("train", 6), ("evaluate", 20), ("report", 0.5)):
        kill_during(killed, stage, after_s)
    run(killed)
    assert results(killed) == results(whole)
    assert "nothing to do" in run(killed)
    shutil.rmtree(killed / "outputs" / f"{PHASE}@small")
    again = run(killed)
    assert [line.split("done  ")[1].split(" in ")[0].split()[0] for line in again.splitlines() if "done  " in line] == [
        "train",
        "evaluate",
        "report",
    ]
    assert results(killed) == results(whole)
