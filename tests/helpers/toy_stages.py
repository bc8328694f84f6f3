"""Small stages for tests of the store and the executor. Configurations are plain mappings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem, StageFailed
from experiment.stages import InputRef, StageNode, StageSpec

MODULE = "tests.helpers.toy_stages"


def node(name, config=None, inputs=None, stage="toy", function="count", worker="light"):
    """A node whose function lies in this module."""
    inputs = inputs or {}
    config = {"name": name, **(config or {})}
    key_config = {k: v for k, v in config.items() if not k.startswith("_")}
    refs = {k: InputRef(n.stage, n.key) for k, n in inputs.items()}
    return StageNode(StageSpec(stage, name, 1, f"{MODULE}:{function}", "", config, key_config, refs), worker, inputs)


def count(config, context):
    """Writes one line per step, resuming; each step sleeps `_sleep_s`. `_trace` collects the attempts' starts."""
    if "_trace" in config:
        with open(config["_trace"], "a") as trace:
            trace.write(f"{config['name']} {os.getpid()} {len(_lines(context.work / 'progress.txt'))}\n")
    steps = config.get("steps", 3)
    progress = context.work / "progress.txt"
    for step in range(len(_lines(progress)), steps):
        time.sleep(config.get("_sleep_s", 0))
        _append(progress, f"step {step}")
        context.report(step + 1, steps, "counting")
        if config.get("_kill_once_at") == step and not (flag := Path(config["_flag"])).exists():
            flag.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        context.checkpoint()
    total = sum(int((folder / "result.txt").read_text()) for _, folder in sorted(context.inputs.items()))
    (context.work / "result.txt").write_text(str(total + len(_lines(progress)) + config.get("add", 0)))
    (context.work / "stray.txt").write_text("not declared")
    (context.work / "folder").mkdir(exist_ok=True)
    (context.work / "folder" / "name.txt").write_text(config["name"])
    print("a stage may print", config["name"])
    return ["result.txt", "folder"]


def fail(config, context):
    """Fails in the way that `how` names."""
    match config["how"]:
        case "config":
            raise ConfigError("lora.rnak is unknown")
        case "environment":
            raise EnvironmentProblem("no OpenGL")
        case "lost":
            raise StageFailed("no demonstration of task 3")
        case "bug":
            raise RuntimeError("a bug of this stage")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return []


def device(config, context):
    """Writes which CUDA device it may use, and when it ran."""
    started = time.time()
    time.sleep(0.3)
    text = f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')} {started} {time.time()}"
    (context.work / "device.txt").write_text(text)
    return ["device.txt"]


def with_child(config, context):
    """Starts a process of its own session that outlives nothing: it dies with its parent."""
    ready = "from data_pipeline.processes import die_with_parent as d; d(os.getppid()); print(flush=True)"
    code = f"import os, time; {ready}; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # it has asked to die with its parent
    Path(config["_pids"]).write_text(f"{os.getpid()} {child.pid}")
    for step in range(600):
        time.sleep(0.1)
        context.report(step, 600, "waiting")
        context.checkpoint()
    child.kill()
    return []


def _lines(path):
    return path.read_text().splitlines() if path.exists() else []


def _append(path, text):
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in [*_lines(path), text]))
    os.replace(temporary, path)
