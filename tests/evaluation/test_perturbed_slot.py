"""What a simulator process shows and says of a perturbed episode, and of the plain one after it."""

from __future__ import annotations

import numpy as np
import pytest

from configs.choices import Look, Mode, Subset
from configs.data import EnvConfig
from configs.schema import EvalConfig
from data_pipeline.sim.environment import LiberoEnv
from evaluation.episodes import EpisodeKey, EpisodeRequest, make_protocol
from evaluation.messages import PERTURBATION, Begin, View
from evaluation.sim_worker import Slot

pytestmark = pytest.mark.sim

CONFIG = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
KEY = EpisodeKey(0, 0, 0, Mode.NO_THINK.value)
PROTOCOL = make_protocol(EvalConfig(), execute=4, max_steps=280)


@pytest.mark.parametrize("perturbation", ["camera:2", "instruction:1"])
def test_a_view_says_what_was_perturbed_and_the_next_episode_knows_nothing_of_it(perturbation: str) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    slot = Slot(LiberoEnv, CONFIG, frame)
    try:
        seen = []
        for asked in ("", perturbation, ""):
            view = slot.answer(Begin(EpisodeRequest(Subset.OBJECT, KEY, PROTOCOL, perturbation=asked)))
            assert isinstance(view, View)
            seen.append((view.description, frame.copy()))
    finally:
        slot.close()
    (plain, plain_frame), (perturbed, perturbed_frame), (after, after_frame) = seen
    assert perturbed.fingerprint == plain.fingerprint | {PERTURBATION: perturbation}
    assert (perturbed.instruction != plain.instruction) == perturbation.startswith("instruction")
    assert np.array_equal(perturbed_frame, plain_frame) == perturbation.startswith("instruction")
    assert bool(perturbed.perturbed) == perturbation.startswith("camera")
    assert after == plain
    assert np.array_equal(after_frame, plain_frame)
