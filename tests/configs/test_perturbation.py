"""A perturbation is a kind and a strength; its magnitudes stand in one table."""

from __future__ import annotations

import pytest

from configs.building import canonical
from configs.checks import ConfigError
from configs.perturbation import MAGNITUDES, Kind, Perturbation
from configs.schema import EvalConfig


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("strength", [1, 2, 3])
def test_its_text_goes_round(kind: Kind, strength: int) -> None:
    perturbation = Perturbation(kind, strength)
    assert Perturbation.parse(str(perturbation)) == perturbation


def test_without_a_number_the_strength_is_two_and_the_key_the_same() -> None:
    assert Perturbation.parse("light") == Perturbation(Kind.LIGHT, 2)
    assert canonical(EvalConfig(perturb="light")) == canonical(EvalConfig(perturb="light:2"))


def test_plain_and_perturbed_evaluations_have_different_keys() -> None:
    spellings = ["", "light:1", "light:2", "camera:2"]
    assert len({str(canonical(EvalConfig(perturb=text))) for text in spellings}) == len(spellings)
    assert EvalConfig().perturbation is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camra:2", "did you mean camera"),
        ("instructions", "did you mean instruction"),
        ("gravity:1", "allowed: camera, light, layout, instruction"),
        ("camera:4", "allowed: 1, 2, 3"),
        ("camera:", "allowed: 1, 2, 3"),
        ("camera:2.5", "allowed: 1, 2, 3"),
    ],
)
def test_what_is_none_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EvalConfig(perturb=text)


def test_magnitudes_grow_with_strength() -> None:
    weak, middle, strong = (MAGNITUDES[strength] for strength in (1, 2, 3))
    for name in ("camera_deg", "light_stops", "light_tint", "light_shift_m", "layout_m"):
        assert 0 < getattr(weak, name) < getattr(middle, name) < getattr(strong, name)
