"""Stage `full`: rollouts of a whole model that was trained elsewhere, as its authors evaluate it: the calibration row.

A study whose engine gives a published checkpoint another rate than its authors' has something else to explain before
its own numbers. The picture is OpenVLA's (and NORA's) instead of ours, and the statistics are the model's own.
"""

from __future__ import annotations

import json

from configs.checks import check
from configs.choices import Role
from configs.phases import PhaseSpec, Segment
from configs.slices import FullCheckpoint, FullSlice
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import StageContext, digest
from data_pipeline.image_frame import openvla_image
from data_pipeline.libero_utils import SUITE_OF
from evaluation.libero_eval import Subject, evaluate
from evaluation.nora_statistics import entries_with
from evaluation.policy import as_subject, placement
from evaluation.simulators import shared_pool
from training.action_tokenizer import from_hub_files
from training.base_folder import BaseFolder, locate_base
from training.card import AdapterCard, package_versions
from training.loaded_policy import LoadedPolicy
from training.lora_model import load_base, make_layout, on_device, tokenizer_digest

PHASE = PhaseSpec("full", (Segment(Role.ACTION, "action"),), "Full checkpoint")


def run_full(config: FullSlice, context: StageContext) -> list[str]:
    """Like `evaluate`, without inputs."""
    with shared_pool(config.eval, config.env) as pool:
        return evaluate(config, context, load_full(config), pool)


def load_full(config: FullSlice) -> Subject:
    """The model as what is evaluated.

    Raises ConfigError where its statistics are not to be had or its weights are of another model, EnvironmentProblem
    where files are missing.
    """
    wanted = config.checkpoint
    assert wanted is not None
    folder = _locate(wanted)
    entries = json.loads(wanted.statistics) or entries_with(
        folder.path, wanted.name, SUITE_OF[config.subset], wanted.unnorm_key
    )
    ((key, record),) = entries.items()
    statistics = ActionStatistics.from_record(key, record, f"{wanted.name}: ")
    actions = from_hub_files(wanted.action.tokenizer, wanted.action.horizon)
    device, dtype = placement(config.trainer)
    model, tokenizer = load_base(folder.path, dtype)
    layout = make_layout(PHASE, tokenizer, actions, 0, wanted.image_size, wanted.system_prompt)
    card = AdapterCard(
        base=folder.name,
        base_digest=folder.digest,
        phase=PHASE,
        subset=config.subset,
        horizon=wanted.action.horizon,
        image_size=wanted.image_size,
        image_frame="rot180",
        system_prompt=wanted.system_prompt,
        num_flow_codes=0,
        flow_tokenizer="",
        action_tokenizer=actions.digest,
        text_tokenizer=tokenizer_digest(tokenizer),
        statistics=key,
        steps=0,
        versions=package_versions(),
    )
    identity = digest({"model": folder.digest, "statistics": record, "actions": actions.digest})
    loaded = LoadedPolicy(on_device(model, device), tokenizer, actions, statistics, card, layout)
    return as_subject(config, loaded, identity, openvla_image)


def _locate(wanted: FullCheckpoint) -> BaseFolder:
    if wanted.path:
        found = locate_base(wanted.path)
        check(found.name == wanted.name, f"{wanted.path} has changed since this was planned; type the command again")
        return found
    name, _, revision = wanted.name.partition("@")
    return locate_base(name, revision, asked="--lora_path ")
