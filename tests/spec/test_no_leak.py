"""Frames after t may be targets and nothing else: with all of them replaced by noise, and everything computed from them
by something else, what the model is shown at t stays the same to the byte, in training and at test time."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from configs.choices import Role
from configs.phases import PhaseSpec
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.flow_tokens import (
    FLOW_TOKENS_JSON,
    FLOW_TOKENS_NPZ,
    load_flow_manifest,
    load_flow_tokens,
    save_flow_tokens,
)
from experiment import compose
from experiment.compose import ablations, find_phase, phase_files
from tests.helpers.training_study import write_study
from tests.training.test_layout import layout_of
from training.layout import ROLES, inference_prefix
from training.sampling import SamplingPlan, StepInputs, numbers_of_step
from training.train_inputs import load_data

STEP = 6
SEED = 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("leak"))


@pytest.fixture(scope="module")
def blinded(study, tmp_path_factory):
    """The same demonstrations with another future: noise for frames, other flow, other words."""
    folder = tmp_path_factory.mktemp("blinded")
    shutil.copytree(study.inputs["regenerate"], folder / "data")
    rng = np.random.default_rng(0)
    for path in sorted((folder / "data").rglob("*.hdf5")):
        with h5py.File(path, "r+") as file:
            for demo in file["data"].values():
                for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                    frames = demo["obs"][camera]
                    frames[STEP + 1 :] = rng.integers(0, 256, (len(frames) - STEP - 1, *frames.shape[1:]))
    tokens = load_flow_tokens(study.folder / FLOW_TOKENS_NPZ)
    others = {episode: replace(flow, codes=rng.permuted(flow.codes, axis=1)) for episode, flow in tokens.items()}
    save_flow_tokens(folder / FLOW_TOKENS_JSON, others, load_flow_manifest(study.folder / FLOW_TOKENS_NPZ))
    words = (study.folder / "annotations.json").read_text()
    (folder / "annotations.json").write_text(words.replace("reach the soup", "go somewhere else"))
    blind = {"regenerate": folder / "data", "annotate": folder, "tokens": folder}
    return replace(study, folder=folder, inputs={**study.inputs, **blind})


def shown(study, phase):
    """Prompt and image at STEP of every training demonstration, and the whole sequences."""
    config = study.train_slice(phase)
    statistics = ActionStatistics.load(study.inputs["stats"] / "dataset_statistics.json")
    data, _ = load_data(config, study.context("leak"), statistics)
    layout = layout_of(study.inputs["base"] / "base", phase)
    inputs = StepInputs(data, layout, SamplingPlan(SEED, 1, 1, 0.0), len(data))
    seen, learned = {}, []
    for step in range(len(data)):
        ((_, number),) = numbers_of_step(step, SEED, 1, len(data))
        episode, at = data.where(number)
        if at == STEP:
            (batch,) = inputs[step].batches
            prompt = batch.input_ids[0][batch.role[0] == ROLES.index(Role.PROMPT)].tolist()
            assert tuple(prompt) == inference_prefix(layout, data.sample(number).instruction)
            seen[episode] = prompt, batch.images[0].numpy().tobytes()
            learned.append(batch.input_ids[0].tolist())
    return seen, learned


@pytest.mark.parametrize("name", [*phase_files(), *ablations(), "flow_before_text"])
def test_the_prompt_and_the_image_do_not_see_the_future(study, blinded, name):
    phase = compose.compose(find_phase("text_flow_cot" if name == "flow_before_text" else name), ["preset=tiny"]).phase
    if name == "flow_before_text":
        text, flow, action = phase.segments
        phase = PhaseSpec(name, (flow, text, action))
    (seen, learned), (seen_blinded, learned_blinded) = shown(study, phase), shown(blinded, phase)
    assert len(seen) > 1
    assert seen == seen_blinded
    assert (learned != learned_blinded) == bool(phase.sources), "the targets must have changed, or nothing was tested"
