"""Ablations are YAML files beside the phases: found by name, not in --all-phases, equal but for what they ablate."""

import pytest

from configs.choices import Corruption, Role
from experiment import compose
from experiment.compose import ablations, find_phase, phase_files

OF = {"text_cot_": "text_cot", "text_flow_cot_": "text_flow_cot", "flow_cot": "text_flow_cot"}


def settings(name, *overrides):
    return compose.compose(find_phase(name), ["preset=nora_3b", *overrides])


def test_they_do_not_join_the_study():
    assert list(phase_files()) == ["baseline", "text_cot", "text_flow_cot"]
    assert len(ablations()) >= 6
    assert not set(ablations()) & set(phase_files())


@pytest.mark.parametrize("name", ablations())
def test_an_ablation_differs_from_its_phase_in_what_it_ablates_alone(name):
    phase = next(phase for prefix, phase in sorted(OF.items(), reverse=True) if name.startswith(prefix))
    mine, whole = settings(name), settings(phase)
    differing = {key for key in vars(whole) if getattr(mine, key) != getattr(whole, key)}
    weights = {"reasoning_dropout"} if mine.reasoning_dropout.cot_loss_weight != 0.5 else set()
    assert differing == {"phase"} | weights
    assert mine.phase.name == name
    assert mine.phase.segments != whole.phase.segments


def test_each_question_has_its_phase():
    segments = {name: settings(name).phase.segments for name in ablations()}
    corrupt = {name: {s.role: s.corrupt for s in found} for name, found in segments.items()}
    assert corrupt["text_cot_shuffled"][Role.TEXT] is Corruption.SHUFFLED
    assert corrupt["text_cot_noisy_boxes"][Role.TEXT] is Corruption.NOISY_BOXES
    assert corrupt["text_flow_cot_shuffled_flow"] == {
        Role.TEXT: Corruption.NONE,
        Role.FLOW: Corruption.SHUFFLED,
        Role.ACTION: Corruption.NONE,
    }
    assert [s.role for s in segments["flow_cot"]] == [Role.FLOW, Role.ACTION]
    assert [c.value for c in segments["text_cot_words_only"][0].without] == ["visible_objects", "gripper_position"]
    assert [s.loss_weight for s in segments["text_flow_cot_half_weights"]] == [0.25, 0.25, 1.0]
