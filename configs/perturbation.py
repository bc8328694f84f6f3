"""What a perturbed evaluation changes, and by how much: a kind and a strength, `camera:2`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from configs.checks import ConfigError, check


class Kind(StrEnum):
    """What is changed. Everything else of the episode stays as it is."""

    CAMERA = "camera"  # agentview turned about the point it looks at
    LIGHT = "light"  # brightness, colour and place of the lamps
    LAYOUT = "layout"  # where objects and fixtures stand
    INSTRUCTION = "instruction"  # the sentence


@dataclass(frozen=True)
class Magnitude:
    """How far each kind goes at one strength."""

    camera_deg: float  # arc about the point looked at
    light_stops: float  # brightness times 2 to the power of this, up or down
    light_tint: float  # largest relative change of a colour channel
    light_shift_m: float  # horizontal, of each lamp
    layout_m: float  # horizontal, of each group of objects that belong together
    wording: str  # of the instruction


MAGNITUDES: dict[int, Magnitude] = {
    1: Magnitude(5.0, 0.5, 0.1, 0.4, 0.02, "other verbs and prepositions"),
    2: Magnitude(15.0, 1.0, 0.25, 0.8, 0.05, "other words, within a longer, polite sentence"),
    3: Magnitude(30.0, 1.5, 0.5, 1.2, 0.10, "the words of another task, or left out: a control"),
}
"""By strength. Benchmarks that these stand beside:

camera: The Colosseum (arXiv 2402.08191) moves cameras by up to 0.1 m and 0.05 rad; LIBERO's agentview is 1 m from what
it looks at, so that 0.1 m is 6 degrees. LIBERO-Plus (arXiv 2510.13626) goes round the scene by tens of degrees.
light: The Colosseum draws the lamps' colour between black and half intensity (one stop down, or more); LIBERO-Plus
varies intensity, colour and direction.
layout: policies that solve 90 % of LIBERO fail where its objects are moved (LIBERO-PRO, arXiv 2510.03827). LIBERO's own
initial states move an object by 0 to 5 cm from one end to the other, along each axis.
instruction: LIBERO-Plus and LIBERO-PRO reword sentences and find that policies hardly read them; strength 3 asks that.
"""

DEFAULT_STRENGTH = 2


@dataclass(frozen=True)
class Perturbation:
    """One kind at one strength. Prints as `camera:2`."""

    kind: Kind
    strength: int  # 1, 2, 3

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """`camera:3`, or `camera` for strength 2. Raises ConfigError that names the nearest kind."""
        name, colon, number = text.strip().partition(":")
        kinds = [kind.value for kind in Kind]
        near = difflib.get_close_matches(name, kinds, 1)
        hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(kinds)}"
        check(name in kinds, f"unknown perturbation {name!r}; {hint}")
        strengths = {str(strength): strength for strength in MAGNITUDES}
        if colon and number not in strengths:
            raise ConfigError(f"perturbation {text!r}: strength {number!r}; allowed: {', '.join(strengths)}")
        return cls(Kind(name), strengths[number] if colon else DEFAULT_STRENGTH)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.strength}"

    @property
    def folder(self) -> str:
        """As part of a folder's name: `camera2`."""
        return f"{self.kind.value}{self.strength}"

    def describe(self) -> str:
        """What it does, for people."""
        size = self.magnitude
        match self.kind:
            case Kind.CAMERA:
                return f"agentview turned by {size.camera_deg:g} degrees about what it looks at"
            case Kind.LIGHT:
                lamps = f"lamps moved by {size.light_shift_m:g} m"
                return f"light up or down {size.light_stops:g} stops, tinted by up to {size.light_tint:.0%}, {lamps}"
            case Kind.LAYOUT:
                return f"objects and fixtures moved by {100 * size.layout_m:g} cm, less far where that does not fit"
            case Kind.INSTRUCTION:
                return f"the instruction in {size.wording}"

    @property
    def magnitude(self) -> Magnitude:
        """Its row of the table."""
        return MAGNITUDES[self.strength]
