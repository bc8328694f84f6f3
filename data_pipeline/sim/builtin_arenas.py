"""MJCF and textures of the five arenas: measured floors, walls, tables, lights and cameras; flat patterns for looks.

LIBERO's code takes for granted: textures `texplane` and `tex-wall` with `file="../textures/X.png"` (it swaps the last
part for the style's), named table geoms where it resizes the table, bodies `floor`, `table`, `living_room_table`,
`study_table` as anchors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipeline.sim.builtin_shapes import element, png_bytes, rotation

_TEXTURE_PX = 128
_SOLID = {"friction": (0.95, 0.3, 0.1), "solref": (0.001, 1), "solimp": (0.998, 0.998, 0.001)}
_UNFELT = {"group": 1, "contype": 0, "conaffinity": 0}
_TABLE_FRICTION = (1, 0.005, 0.0001)  # LIBERO's code replaces it for some tables
_TABLE_TEXTURE = "martin_novak_wood_table.png"
_DESK_TEXTURES = {"living_room": "table_dark_wood.png", "study": "table_oak_wood.png"}
_MATERIALS: dict[str, dict[str, Any]] = {
    "floorplane": {"texture": "texplane", "texrepeat": (3, 3), "texuniform": "true", "specular": 0, "shininess": 0},
    "walls_mat": {"texture": "tex-wall", "texrepeat": (3, 3), "texuniform": "true", "specular": 0.5, "shininess": 0.1},
    "table_texture": {"texture": "tex-table", "texrepeat": (1, 1), "specular": 0.2, "shininess": 0},
    "table_legs": {"texture": "tex-table", "texrepeat": (1, 1), "specular": 0.2, "shininess": 0},
}
_SKY = {
    "type": "skybox",
    "builtin": "gradient",
    "rgb1": (0.9, 0.9, 1),
    "rgb2": (0.2, 0.3, 0.4),
    "width": 64,
    "height": 64,
}
_KITCHEN_COUNTER = {"type": "box", "pos": (-1.65, 0, 0.45), "size": (0.3, 1.6, 0.45), "rgba": (0.45, 0.42, 0.36, 1)}
_LIVING_ROOM_TABLE_POSE = {"pos": (-0.25, 0.25, 0), "quat": (0.707, 0, 0, 0.707)}


def arena_file(name: str, entry: dict[str, Any]) -> tuple[str, bytes]:
    """(path, MJCF) of one arena."""
    assets = [element("texture", _SKY), *_textures_of(name)]
    assets += [element("material", {"name": key, "reflectance": 0, **look}) for key, look in _MATERIALS.items()]
    world = _anchored(name, entry["geoms"])
    world += [_furniture(piece) for piece in entry["furniture"]]
    if name == "kitchen":
        world.append(element("geom", {**_KITCHEN_COUNTER, **_UNFELT}))
    world += [element("light", light) for light in entry["lights"]]
    world += [element("camera", {"mode": "fixed", **camera}) for camera in entry["cameras"]]
    text = f'<mujoco model="{name}">\n{element("asset", {}, assets)}{element("worldbody", {}, world)}</mujoco>\n'
    return entry["source"], text.encode()


def texture_files(table: dict[str, Any]) -> dict[str, bytes]:
    """Path -> PNG of every texture that the arenas and LIBERO's styles name."""
    colours = dict(table["textures"])
    for arena, file in _DESK_TEXTURES.items():
        colours[file] = table["arenas"][arena]["desk_rgb"]
    return {f"textures/{file}": png_bytes(_pattern(file, rgb)) for file, rgb in sorted(colours.items())}


def _textures_of(name: str) -> list[str]:
    files = {
        "texplane": ("2d", "light-gray-floor-tile.png"),
        "tex-wall": ("2d", "light-gray-plaster.png"),
        "tex-table": ("cube", _DESK_TEXTURES.get(name, _TABLE_TEXTURE)),
    }
    return [
        element("texture", {"name": key, "type": kind, "file": f"../textures/{file}"})
        for key, (kind, file) in files.items()
    ]


def _anchored(name: str, geoms: list[dict[str, Any]]) -> list[str]:
    """Floor, walls and tables, inside the bodies that LIBERO places things on."""
    floor = [_floor(geom) for geom in geoms if geom["type"] == "plane"]
    walls = [_seen(geom) for geom in geoms if geom.get("name", "").startswith("wall")]
    table = [_table(geom) for geom in geoms if geom.get("name", "").startswith("table")]
    desk = [_desk(geom) for geom in geoms if "name" not in geom]
    world = [element("body", {"name": "floor", "pos": (0, 0, 0)}, floor)] if name in ("floor", "living_room") else floor
    world += walls
    if table:
        top = element("site", {"name": "table_top", "pos": (0, 0, 0.4), "size": [0.001] * 3, "rgba": (0, 0, 0, 0)})
        world.append(element("body", {"name": "table", "pos": (0, 0, 0.4)}, [*table, top]))
    if name == "living_room":
        inner = element("body", {"name": "living_room_table_col", **_LIVING_ROOM_TABLE_POSE}, desk)
        world.append(element("body", {"name": "living_room_table", "pos": (0, 0, 0)}, [inner]))
    if name == "study":
        world.append(element("body", {"name": "study_table", "pos": (0, 0, 0)}, desk))
    return world


def _shape(geom: dict[str, Any]) -> dict[str, Any]:
    return {key: geom[key] for key in ("name", "type", "pos", "quat", "size") if key in geom}


def _floor(geom: dict[str, Any]) -> str:
    return element("geom", {**_shape(geom), "condim": 3, "group": 1, "material": "floorplane"})


def _seen(geom: dict[str, Any]) -> str:
    return element("geom", {**_shape(geom), **_UNFELT, "material": "walls_mat"})


def _table(geom: dict[str, Any]) -> str:
    if geom["collides"]:
        return element("geom", {**_shape(geom), "group": 0, "friction": _TABLE_FRICTION})
    material = "table_legs" if "leg" in geom["name"] else "table_texture"
    return element("geom", {**_shape(geom), **_UNFELT, "material": material})


def _desk(geom: dict[str, Any]) -> str:
    felt = element("geom", {**_shape(geom), "group": 0, "rgba": (0.8, 0.8, 0.8, 0.3), **_SOLID})
    return felt + element("geom", {**_shape(geom), **_UNFELT, "material": "table_texture"})


def _furniture(piece: dict[str, Any]) -> str:
    """Background furniture: its bounding box in its mean colour."""
    low, high = np.array(piece["low"]), np.array(piece["high"])
    center = rotation(piece["quat"]) @ ((low + high) / 2) + np.array(piece["pos"])
    colour = [*(np.array(piece["rgb"]) / 255), 1]
    shape = {"type": "box", "pos": center, "quat": piece["quat"], "size": (high - low) / 2, "rgba": colour}
    return element("geom", {**shape, **_UNFELT})


def _pattern(file: str, rgb: list[int]) -> np.ndarray:
    """A tile, boards or plaster of the given mean colour: uint8 [128, 128, 3]."""
    size = _TEXTURE_PX
    image = np.tile(np.array(rgb, float), (size, size, 1)) + _grain(size)[..., None]
    if "tile" in file:
        image[:3] *= 0.8
        image[:, :3] *= 0.8
    elif "wood" in file:
        phase = np.arange(size) / size * 2 * np.pi
        image *= 1 + 0.05 * np.sin(3 * phase + np.sin(2 * phase[:, None]))[..., None]
        image[:, :: size // 4] *= 0.75
    return np.clip(image.round(), 0, 255).astype(np.uint8)


def _grain(size: int) -> np.ndarray:
    """Noise of about 3 grey levels, from integer arithmetic: the same on every machine and numpy version."""
    x, y = np.meshgrid(np.arange(size, dtype=np.uint32), np.arange(size, dtype=np.uint32))
    mixed = x * np.uint32(374761393) + y * np.uint32(668265263)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(1274126177)
    return (mixed >> np.uint32(16)).astype(float) / 65535 * 10 - 5
