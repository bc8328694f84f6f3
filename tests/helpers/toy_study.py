"""Stand-ins for the real stages with the same outputs, for tests of the command line: milliseconds instead of minutes.

Each output's content is a digest of the stage's configuration and inputs, so that whatever reaches a stage can be seen.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from configs.building import canonical
from configs.checks import ConfigError
from configs.choices import Weights
from configs.slices import RewordSlice
from data_pipeline.contract import StageFailed
from data_pipeline.demo_outcomes import FailedAttempt, Outcome, summarise
from data_pipeline.metainfo import metainfo_name
from experiment.secret import NETWORK
from experiment.stages import STAGES, StageKind, digest
from training.card import AdapterCard, save_card

MODULE = "tests.helpers.toy_study"
METAINFO = "TOY_METAINFO"
"""Environment variable: what the toy regeneration writes as its metainfo."""


def install(monkeypatch):
    """Replace every stage of the table, in this process; specs carry the function's name to the workers."""
    for name, kind in list(STAGES.items()):
        worker = NETWORK if kind.worker == NETWORK else "light"
        toy = StageKind(f"{MODULE}:{name}", worker, kind.version, 0.1)
        monkeypatch.setitem(STAGES, name, dataclasses.replace(toy))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))


def _write(context, config, *names):
    assert isinstance(config, RewordSlice) or "OPENAI_API_KEY" not in os.environ
    inputs = {name: sorted(os.listdir(folder)) for name, folder in context.inputs.items()}
    content = {"config": canonical(config), "inputs": inputs, "tasks": {}}
    for name in names:
        path = context.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**content, "digest": digest([name, content])}))
    context.report(1, 1, "toy")
    return sorted({name.partition("/")[0] for name in names})


def demos(config, context):
    return _write(context, config, *(f"task{task}_demo.hdf5" for task in config.tasks), "demos.json")


def demos_of_task_7(config, context):
    """What the expert leaves when it cannot do task 3."""
    tasks = {
        "open_the_top_drawer": summarise(3, {0: Outcome((FailedAttempt(5, "no free grasp"),))}, []),
        "turn_on_the_stove": summarise(7, {0: Outcome((), 0, 90, 5, 0.0123, 0.9, 1)}, [np.zeros((90, 3))]),
    }
    context.remarks.update(workers=config.workers, busy_s={"turn_on_the_stove": 3.0})
    (context.work / "demos.json").write_text(json.dumps({"tasks": tasks}))
    if 3 in config.tasks:
        raise StageFailed("the expert cannot do task 3")
    return ["demos.json"]


def official(config, context):
    return _write(context, config, *(name for name, _ in config.files))


def regenerate(config, context):
    outputs, metainfo = _write(context, config, "task0_demo.hdf5"), metainfo_name(config.subset)
    (context.work / metainfo).write_text(os.environ.get(METAINFO, "{}"))
    return [*outputs, metainfo]


def split(config, context):
    return _write(context, config, "split.json")


def stats(config, context):
    return _write(context, config, "dataset_statistics.json")


def annotate(config, context):
    outputs = _write(context, config, "annotations.json")
    path = context.work / "annotations.json"
    path.write_text(json.dumps({json.loads(path.read_text())["digest"]: {}}))  # a file without demonstrations
    return outputs


def reword(config, context):
    """Notes whether the key reached it; quality.json as the driver reads it."""
    assert os.environ[config.api_key_env], "no key"
    length = {"mean": 1.0, "p95": 1, "max": 1}
    quality = {
        "model": config.model,
        "texts": {"asked": 1, "reworded": 1, "share": 1.0},
        "kept_rules": {},
        "unchanged": 0,
        "steps": {"all": 1, "reworded": 1},
        "motion": {"naming": 0, "agree": 0},
        "characters": {"plan": {"rules": length, "now": length}},
        "calls": 1,
        "tokens": {"prompt": 1, "completion": 1},
        "usd": 0.0,
    }
    (context.work / "quality.json").write_text(json.dumps(quality))
    return [*_write(context, config, "annotations.json"), "quality.json"]


def flow(config, context):
    return _write(context, config, "flow.npz")


def codebook(config, context):
    return _write(context, config, "flow_tokenizer.safetensors", "codebook.json")


def tokens(config, context):
    return _write(context, config, "flow_tokens.json", "flow_tokens.npz", "flow_tokenizer.safetensors")


def base(config, context):
    return _write(context, config, "base/model.safetensors", "metrics.jsonl")


def shipped(config, context):
    return _write(context, config, "base/model.safetensors")


def trained_on(weights: Path) -> dict:
    """What the toy stage `train` wrote of its configuration and inputs into an adapter's file."""
    with safe_open(weights, "numpy") as file:
        return json.loads(file.metadata()["content"])


def train(config, context):
    outputs = _write(context, config, "checkpoint-final/adapter_model.safetensors", "metrics.jsonl")
    weights = context.work / "checkpoint-final" / "adapter_model.safetensors"
    save_file({}, weights, {"content": weights.read_text()})
    said = dict.fromkeys((f.name for f in dataclasses.fields(AdapterCard)), "")
    numbers = {"horizon": 8, "image_size": 56, "num_flow_codes": 0, "steps": 1, "base_bits": 16}
    own = {"phase": config.phase, "subset": config.subset, "system_prompt": False, "versions": ()}
    save_card(context.work / "checkpoint-final", AdapterCard(**said | numbers | own | {"weights": Weights.ADAPTER}))
    return outputs


def broken(config, context):
    raise ConfigError("this training is broken")


def evaluate(config, context):
    assert (context.inputs["adapter"] / "checkpoint-final").is_dir()
    outputs = _write(context, config, "videos/one.mp4")
    (context.work / "summary.json").write_text(json.dumps({"errors": 0, "trials": config.eval.num_trials}))
    (context.work / "episodes.jsonl").write_text('{"outcome": "success"}\n')
    return [*outputs, "summary.json", "episodes.jsonl"]


def breaks_once(config, context):
    """An evaluation with an error row, unless it goes on from the rows of an earlier attempt."""
    went_on = (context.work / "episodes.jsonl").exists()
    outputs = evaluate(config, context)
    (context.work / "summary.json").write_text(json.dumps({"errors": 0 if went_on else 1}))
    return outputs


def replay(config, context):
    (context.work / "summary.json").write_text(json.dumps({"errors": 0}))
    return ["summary.json"]


def control(config, context):
    (context.work / "summary.json").write_text(json.dumps({"errors": 0, "tasks": config.tasks}))
    return ["summary.json"]


full = control


def report(config, context):
    (context.work / "results.md").write_text("".join(f"| {slug} |\n" for slug in config.runs))
    (context.work / "results.csv").write_text("csv")
    (context.work / "results.html").write_text("html")
    return ["results.md", "results.csv", "results.html"]
