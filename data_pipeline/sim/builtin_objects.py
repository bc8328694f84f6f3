"""MJCF of the objects of the four suites: measured collision boxes, joints and sites; visuals of our own.

A visual part is one mesh: turned on a lathe where the thing is round, else made of its collision boxes; coloured by
twelve bands along one axis. Visual meshes have no mass and touch nothing, so that only the figures make the physics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from data_pipeline.sim.builtin_shapes import (
    Mesh,
    box_corners,
    boxes_mesh,
    element,
    join,
    lathe,
    obj_text,
    place,
    png_bytes,
)

Profile = tuple[tuple[float, float], ...]
Rgb = tuple[int, int, int]

VISUAL = {"group": 1, "contype": 0, "conaffinity": 0, "density": 0}
_INVISIBLE = "0 0 0 0"
_PART_MARGIN = 0.008  # m: a collision box may stand out of the visual part that it belongs to by this much
_METAL = "0.75 0.75 0.78 1"
_BURNER_RED = "0.9 0.05 0.05 1"  # LIBERO switches its alpha when the stove is turned on


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

_PACKAGING_GAIN = 1.7
"""Mean colours of printed packaging are washed out; their distance from grey is multiplied by this."""


class ObjectFiles:
    """The files of one object: `files` maps a path inside the asset folder to its bytes."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self._name, self._entry = name, entry
        self._folder = PurePosixPath(entry["source"]).parent
        self._assets: list[str] = []
        self.files: dict[str, bytes] = {}
        bodies = "".join(self._body(body) for body in entry["bodies"])
        compiler = element("compiler", {"angle": "radian"}) if entry["angle_unit"] == "radian" else ""
        text = (
            f'<mujoco model="{name}">\n{compiler}<asset>\n{"".join(self._assets)}</asset>\n'
            f"<worldbody>\n{bodies}</worldbody>\n</mujoco>\n"
        )
        self.files[entry["source"]] = text.encode()

    def _body(self, body: dict[str, Any]) -> str:
        children = [element("inertial", body["inertial"])] if "inertial" in body else []
        children += [element("joint", {**joint, "limited": "true"}) for joint in body.get("joints", [])]
        children += [self._visual(mesh, axis, bands) for mesh, axis, bands in self._parts(body)]
        children += _fittings(self._name, body.get("name"))
        children += self._collisions(body)
        children += [_site(site) for site in body.get("sites", [])]
        children += [self._body(child) for child in body.get("bodies", [])]
        keys = ("name", "pos", "quat")
        return element("body", {key: body.get(key) for key in keys}, children or ["\n"])

    # -------------------------------------------------------------- what is felt

    def _collisions(self, body: dict[str, Any]) -> list[str]:
        """The order of geoms is part of the physics: the solver sees contacts in it."""
        boxes = body.get("collision_boxes", [])
        if self._name == "microwave":
            return self._microwave_collisions(body.get("name") == "microdoorroot", boxes)
        if (self._name, body.get("name")) == ("flat_stove", "burner"):
            return _burner_collisions(boxes)
        return [_box(box, body.get("contact", {})) for box in boxes]

    def _microwave_collisions(self, is_door: bool, boxes: list[dict[str, Any]]) -> list[str]:  # noqa: FBT001
        contact = self._entry["contact"]
        capsules = self._entry["door_capsules"] if is_door else []
        felt = [element("geom", {"type": "capsule", "group": 0, **capsule, **contact}) for capsule in capsules]
        mass = self._entry["door_box_mass" if is_door else "body_box_mass"]
        return felt + [_box(box, {**contact, "mass": mass}) for box in boxes]

    # -------------------------------------------------------------- what is seen

    def _parts(self, body: dict[str, Any]) -> list[tuple[Mesh, int, np.ndarray]]:
        """(mesh, band axis, band colours) of each visual part of a body."""
        boxes = body.get("collision_boxes", [])
        if not boxes or (self._name, body.get("name")) == ("flat_stove", "burner"):
            return []
        parts = [part for part in self._entry["parts"] if part["body"] == body.get("name")]
        if not parts:
            return [(boxes_mesh(boxes), 2, self._bands([[120, 120, 120]]))]
        owners = _owners(boxes, parts)
        seen = []
        for index, part in enumerate(parts):
            own = [box for box, owner in zip(boxes, owners, strict=True) if owner == index]
            mesh, axis = self._shape(part, own, is_main=index == 0)
            bands = np.array(part["bands"]) if index else self._bands(part["bands"])
            seen.append((mesh, axis, bands))
        return seen

    def _shape(self, part: dict[str, Any], boxes: list[dict[str, Any]], *, is_main: bool) -> tuple[Mesh, int]:
        """The part's mesh and the axis along which its bands run."""
        low, high = np.array(part["low"]), np.array(part["high"])
        if is_main and self._name in STRETCHED:
            return _stretched(STRETCHED[self._name], part["axis"], low, high, boxes), part["axis"]
        if is_main and self._name in TURNED:
            return _turned(TURNED[self._name], boxes), TURNED[self._name].axis
        if boxes:
            return boxes_mesh(boxes), part["axis"]
        return boxes_mesh([{"pos": (low + high) / 2, "size": (high - low) / 2 + 1e-4}]), part["axis"]

    def _bands(self, measured: list[list[int]]) -> np.ndarray:
        """uint8 [B, 3]."""
        if self._name in COLOURS:
            return np.array(COLOURS[self._name], np.uint8)
        bands = np.array(measured, float)
        if "hope" in self._entry["source"]:
            grey = bands.mean(axis=1, keepdims=True)
            bands = np.clip(grey + (bands - grey) * _PACKAGING_GAIN, 0, 255)
        return bands.astype(np.uint8)

    def _visual(self, mesh: Mesh, axis: int, bands: np.ndarray) -> str:
        """Write the mesh and its texture; returns the geom."""
        label = f"{self._name}_v{len(self._assets)}"
        plain = len(np.unique(bands, axis=0)) == 1
        self._add(f"{label}.obj", obj_text(mesh, None if plain else axis).encode())
        look: dict[str, Any] = {"name": label, "specular": 0.3, "shininess": 0.3}
        if plain:
            look["rgba"] = [*(bands[0] / 255), 1]
        else:
            image = np.repeat(np.repeat(bands[::-1, None].astype(np.uint8), 4, axis=1), 8, axis=0)
            self._add(f"{label}.png", png_bytes(image))
            self._assets.append(element("texture", {"type": "2d", "name": f"tex-{label}", "file": f"{label}.png"}))
            look["texture"] = f"tex-{label}"
        self._assets.append(element("material", look))
        self._assets.append(element("mesh", {"name": label, "file": f"{label}.obj"}))
        return element("geom", {"type": "mesh", "mesh": label, "material": label, **VISUAL})

    def _add(self, file: str, content: bytes) -> None:
        self.files[str(self._folder / file)] = content


def _owners(boxes: list[dict[str, Any]], parts: list[dict[str, Any]]) -> list[int]:
    """For each box the smallest part whose extent holds it, else the largest part."""
    volumes = [float(np.prod(np.subtract(part["high"], part["low"]))) for part in parts]
    owners = []
    for box in boxes:
        corners = box_corners(box)
        holding = [
            index
            for index, part in enumerate(parts)
            if (corners.min(0) > np.array(part["low"]) - _PART_MARGIN).all()
            and (corners.max(0) < np.array(part["high"]) + _PART_MARGIN).all()
        ]
        owners.append(min(holding, key=volumes.__getitem__) if holding else int(np.argmax(volumes)))
    return owners


def _stretched(profile: Profile, axis: int, low: np.ndarray, high: np.ndarray, boxes: list[dict[str, Any]]) -> Mesh:
    """A profile of fractions, stretched to an extent."""
    half, middle = (high - low) / 2, (high + low) / 2
    first, second = (axis + 1) % 3, (axis + 2) % 3
    mesh = lathe(profile)
    mesh = Mesh(mesh.vertices - [0, 0, 0.5], mesh.faces)
    sign = -1.0 if _narrow_end_is_low(boxes, axis) else 1.0
    turn = np.array([sign, 1.0, sign])  # half a turn about the second axis
    return place(Mesh(mesh.vertices * turn, mesh.faces), axis, middle, (half[first], half[second], 2 * half[axis]))


def _narrow_end_is_low(boxes: list[dict[str, Any]], axis: int) -> bool:
    """Whether the boxes near the low end of the axis span less than those near the high end."""
    corners = np.concatenate([box_corners(box) for box in boxes])
    low, high = corners[:, axis].min(), corners[:, axis].max()
    others = [other for other in range(3) if other != axis]

    def width(end: float) -> float:
        near = corners[np.abs(corners[:, axis] - end) < 0.2 * (high - low)]
        return float(np.ptp(near[:, others], axis=0).sum())

    return width(low) < 0.95 * width(high)


def _turned(turned: Turned, boxes: list[dict[str, Any]]) -> Mesh:
    """The turned body, and as they are the boxes that stand off it: handles and spouts."""
    offset = np.zeros(3)
    offset[(turned.axis + 1) % 3], offset[(turned.axis + 2) % 3] = turned.center
    body = place(lathe(turned.profile, turned.sides), turned.axis, offset)
    across = [(turned.axis + 1) % 3, (turned.axis + 2) % 3]
    reach = max(radius for radius, _ in turned.profile)
    handle = [b for b in boxes if np.linalg.norm(np.asarray(b["pos"])[across] - turned.center) > 1.02 * reach]
    return join([body, boxes_mesh(handle)]) if handle else body


def _box(box: dict[str, Any], contact: dict[str, Any]) -> str:
    shape = {key: box[key] for key in ("pos", "quat", "size") if key in box}
    return element("geom", {"type": "box", "group": 0, "rgba": "0.8 0.8 0.8 0.3", **shape, **contact})


def _burner_collisions(boxes: list[dict[str, Any]]) -> list[str]:
    """The stove's plate is felt and seen (first box), felt again, and covered by a thin invisible one."""
    names = ("base_vis", "base", "collision_burner")
    looks = ({"group": 1, "rgba": "0.55 0.55 0.57 1"}, {"group": 0}, {"group": 0, "rgba": _INVISIBLE})
    return [
        element("geom", {"name": name, "type": "box", "pos": box["pos"], "size": box["size"], **look})
        for name, box, look in zip(names, boxes, looks, strict=True)
    ]


def _site(site: dict[str, Any]) -> str:
    keys = ("name", "type", "pos", "quat", "size")
    rgba = _BURNER_RED if site["name"] == "burner" else _INVISIBLE
    return element("site", {**{key: site.get(key) for key in keys}, "rgba": rgba})


def _fittings(name: str, body: str | None) -> list[str]:
    """Small things to see that the table of parts does not have."""
    match (name, body):
        case ("flat_stove", "burner_plate"):
            shapes = [{"type": "cylinder", "pos": (0, 0, 0.0203), "size": (0.078, 0.0012), "rgba": "0.16 0.16 0.17 1"}]
        case ("flat_stove", "button"):
            shapes = [
                {"type": "box", "pos": (0, 0, 0.0405), "size": (0.003, 0.030, 0.0006), "rgba": "0.95 0.95 0.95 1"}
            ]
        case ("microwave", "microdoorroot"):
            shapes = [
                {"type": "box", "pos": (0.11, -0.0255, 0), "size": (0.08, 0.0006, 0.06), "rgba": "0.15 0.2 0.25 1"},
                {"type": "capsule", "pos": (0.2375, -0.054, 0), "size": (0.01, 0.065), "rgba": _METAL},
                {
                    "type": "capsule",
                    "pos": (0.2375, -0.0375, 0.065),
                    "size": (0.01, 0.015),
                    "euler": (1.57, 0, 0),
                    "rgba": _METAL,
                },
                {
                    "type": "capsule",
                    "pos": (0.2375, -0.0375, -0.065),
                    "size": (0.01, 0.015),
                    "euler": (1.57, 0, 0),
                    "rgba": _METAL,
                },
            ]
        case ("microwave", "object"):
            shapes = [
                {
                    "type": "box",
                    "pos": (0.135, -0.1112, 0.150),
                    "size": (0.024, 0.0006, 0.014),
                    "rgba": "0.2 0.5 0.35 1",
                },
                {
                    "type": "box",
                    "pos": (0.135, -0.1112, 0.085),
                    "size": (0.024, 0.0006, 0.040),
                    "rgba": "0.35 0.35 0.37 1",
                },
            ]
        case _:
            shapes = []
    return [element("geom", {**shape, **VISUAL}) for shape in shapes]


def object_files(name: str, entry: dict[str, Any]) -> dict[str, bytes]:
    """All files of one object."""
    return ObjectFiles(name, entry).files
