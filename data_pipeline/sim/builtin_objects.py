"""MJCF of the objects of the four suites: measured collision boxes, joints and sites; visuals of our own.

A visual part is one mesh: turned on a lathe where the thing is round, else made of its collision boxes; coloured by
twelve bands along one axis. Visual meshes have no mass and touch nothing, so that only the figures make the physics.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from data_pipeline.sim.builtin_looks import COLOURS, PACKAGING_GAIN, STRETCHED, TURNED, Profile, Turned, fittings
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

VISUAL = {"group": 1, "contype": 0, "conaffinity": 0, "density": 0}
_INVISIBLE = "0 0 0 0"
_PART_MARGIN = 0.008  # m: a collision box may stand out of the visual part that it belongs to by this much
_BURNER_RED = "0.9 0.05 0.05 1"  # LIBERO switches its alpha when the stove is turned on


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
        children += [element("geom", {**shape, **VISUAL}) for shape in fittings(self._name, body.get("name"))]
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
            bands = np.clip(grey + (bands - grey) * PACKAGING_GAIN, 0, 255)
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


def object_files(name: str, entry: dict[str, Any]) -> dict[str, bytes]:
    """All files of one object."""
    return ObjectFiles(name, entry).files
