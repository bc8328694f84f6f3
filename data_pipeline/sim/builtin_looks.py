"""How the built-in objects look: profiles of round things, colours of our own choice, small fittings.

None of it is felt: see `builtin_objects`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Profile = tuple[tuple[float, float], ...]
Rgb = tuple[int, int, int]

_METAL = "0.75 0.75 0.78 1"


@dataclass(frozen=True)
class Turned:
    """How a round part is turned: profile (radius, height) about `axis` through `center`, m, in the body's frame."""

    profile: Profile
    axis: int = 2
    center: tuple[float, float] = (0.0, 0.0)  # in the two axes that follow `axis` cyclically
    sides: int = 32


_CAN: Profile = ((0.0, 0.0), (0.94, 0.0), (1.0, 0.02), (1.0, 0.97), (0.94, 1.0), (0.90, 0.985), (0.0, 0.985))
_BOTTLE: Profile = (
    (0.0, 0.0), (0.90, 0.0), (1.0, 0.03), (1.0, 0.52), (0.93, 0.66), (0.66, 0.79), (0.55, 0.82), (0.62, 0.825),
    (0.60, 0.98), (0.52, 1.0), (0.0, 1.0),
)  # fmt: skip
"""Fractions of the part's half width and of its height."""

STRETCHED: dict[str, Profile] = {
    "alphabet_soup": _CAN,
    "tomato_sauce": _CAN,
    "bbq_sauce": _BOTTLE,
    "ketchup": _BOTTLE,
    "salad_dressing": _BOTTLE,
}
"""Round or oval things whose profile is stretched to the measured extent; the narrow end is where the boxes have it."""

TURNED: dict[str, Turned] = {
    "akita_black_bowl": Turned(
        (
            (0.0, 0.0016), (0.022, 0.0016), (0.036, 0.0095), (0.044, 0.0225), (0.0500, 0.040), (0.0534, 0.0521),
            (0.0512, 0.0521), (0.0468, 0.039), (0.0405, 0.0225), (0.031, 0.012), (0.018, 0.0068), (0.0, 0.0068),
        )
    ),
    "plate": Turned(
        (
            (0.0, -0.0002), (0.038, -0.0002), (0.046, 0.003), (0.0685, 0.0146), (0.0685, 0.0166), (0.060, 0.0132),
            (0.046, 0.0062), (0.040, 0.0040), (0.0, 0.0040),
        )
    ),
    "glazed_rim_porcelain_ramekin": Turned(
        (
            (0.0, 0.0), (0.0365, 0.0), (0.0385, 0.008), (0.0418, 0.028), (0.0443, 0.0433), (0.0405, 0.0433),
            (0.0385, 0.031), (0.0350, 0.013), (0.0, 0.0112),
        )
    ),
    "porcelain_mug": Turned(
        (
            (0.0, 0.0005), (0.026, 0.0005), (0.033, 0.012), (0.0415, 0.030), (0.0465, 0.050), (0.0483, 0.075),
            (0.0483, 0.1146), (0.0448, 0.1146), (0.0440, 0.06), (0.038, 0.032), (0.027, 0.014), (0.0, 0.010),
        ),
        center=(0.0166, -0.0017),
    ),
    "red_coffee_mug": Turned(
        (
            (0.0, 0.0), (0.0275, 0.0), (0.0295, 0.004), (0.0310, 0.030), (0.0350, 0.065), (0.040, 0.100),
            (0.0453, 0.1349), (0.0425, 0.1349), (0.037, 0.100), (0.032, 0.065), (0.028, 0.030), (0.025, 0.012),
            (0.0, 0.010),
        ),
        center=(-0.0178, -0.0011),
    ),
    "white_yellow_mug": Turned(
        (
            (0.0, 0.0), (0.025, 0.0), (0.033, 0.010), (0.040, 0.030), (0.046, 0.060), (0.0513, 0.1048),
            (0.0475, 0.1048), (0.0420, 0.060), (0.036, 0.031), (0.028, 0.015), (0.0, 0.011),
        ),
        center=(-0.0178, -0.0009),
    ),
    "chefmate_8_frypan": Turned(
        (
            (0.0, 0.0), (0.070, 0.0), (0.076, 0.004), (0.087, 0.025), (0.098, 0.0480), (0.0950, 0.0480),
            (0.083, 0.025), (0.072, 0.0095), (0.0, 0.0095),
        ),
        center=(0.0035, -0.0005),
    ),
    "moka_pot": Turned(
        (
            (0.0, -0.0671), (0.0385, -0.0671), (0.0345, -0.014), (0.0335, -0.006), (0.0400, 0.056), (0.0380, 0.0620),
            (0.012, 0.0680), (0.006, 0.0690), (0.006, 0.074), (0.0080, 0.079), (0.006, 0.0860), (0.0, 0.0870),
        ),
        sides=8,
    ),
    "wine_bottle": Turned(
        (
            (0.0, 0.0), (0.0195, 0.0), (0.0216, 0.003), (0.0216, 0.085), (0.0190, 0.098), (0.0100, 0.113),
            (0.0080, 0.122), (0.0076, 0.148), (0.0086, 0.150), (0.0086, 0.157), (0.0, 0.1588),
        )
    ),
}  # fmt: skip
"""Profiles read off the collision boxes and the measured extents."""

COLOURS: dict[str, tuple[Rgb, ...]] = {
    "akita_black_bowl": (*(((35, 35, 38),) * 9), (95, 95, 100)),
    "black_book": ((38, 38, 42),),
    "chefmate_8_frypan": ((52, 52, 54),),
    "flat_stove": ((60, 60, 64),),
    "microwave": ((40, 40, 42),),
    "plate": ((205, 205, 210), (214, 214, 218), (224, 224, 228), (170, 60, 55)),
    "porcelain_mug": ((235, 235, 230),),
    "red_coffee_mug": ((180, 30, 30),),
    "white_yellow_mug": ((226, 178, 40), (226, 178, 40), (240, 238, 232), (240, 238, 232)),
    "wine_bottle": (
        (14, 30, 16),
        (150, 30, 40),
        (14, 30, 16),
        (14, 30, 16),
        (14, 30, 16),
        (14, 30, 16),
        (205, 160, 105),
    ),
}
"""Bands of our own choice, low end first, where the measured mean colours would not let one recognise the thing."""

PACKAGING_GAIN = 1.7
"""Mean colours of printed packaging are washed out; their distance from grey is multiplied by this."""


def fittings(name: str, body: str | None) -> list[dict[str, Any]]:
    """Small things to see that the table of parts does not have, as attributes of geoms."""
    match (name, body):
        case ("flat_stove", "burner_plate"):
            return [_thing("cylinder", (0, 0, 0.0203), (0.078, 0.0012), "0.16 0.16 0.17 1")]
        case ("flat_stove", "button"):
            return [_thing("box", (0, 0, 0.0405), (0.003, 0.030, 0.0006), "0.95 0.95 0.95 1")]
        case ("microwave", "microdoorroot"):  # window and handle
            lying = {"euler": (1.57, 0, 0)}
            return [
                _thing("box", (0.11, -0.0255, 0), (0.08, 0.0006, 0.06), "0.15 0.2 0.25 1"),
                _thing("capsule", (0.2375, -0.054, 0), (0.01, 0.065), _METAL),
                {**_thing("capsule", (0.2375, -0.0375, 0.065), (0.01, 0.015), _METAL), **lying},
                {**_thing("capsule", (0.2375, -0.0375, -0.065), (0.01, 0.015), _METAL), **lying},
            ]
        case ("microwave", "object"):  # display and keys
            return [
                _thing("box", (0.135, -0.1112, 0.150), (0.024, 0.0006, 0.014), "0.2 0.5 0.35 1"),
                _thing("box", (0.135, -0.1112, 0.085), (0.024, 0.0006, 0.040), "0.35 0.35 0.37 1"),
            ]
        case _:
            return []


def _thing(kind: str, pos: tuple[float, ...], size: tuple[float, ...], rgba: str) -> dict[str, Any]:
    return {"type": kind, "pos": pos, "size": size, "rgba": rgba}
