"""Shapes, images and XML of the built-in assets, as text and bytes. numpy and the standard library only.

Everything is a pure function and gives the same bytes on every machine: the built-in set is named by its digest.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_BOX_FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ]
)  # fmt: skip
"""Triangles over _CORNERS, anticlockwise seen from outside."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, anticlockwise seen from outside."""

    vertices: np.ndarray  # float64 [N, 3], m
    faces: np.ndarray  # int [M, 3]


def rotation(quat_wxyz: Sequence[float] | None) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion, which need not be normalised; None is the identity."""
    if quat_wxyz is None:
        return np.eye(3)
    w, x, y, z = np.asarray(quat_wxyz, float) / np.linalg.norm(quat_wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def box_corners(box: dict[str, Any]) -> np.ndarray:
    """Corners [8, 3] of a box given by `size` (half), `pos` and `quat`."""
    return (_CORNERS * box["size"]) @ rotation(box.get("quat")).T + np.asarray(box.get("pos", (0.0, 0.0, 0.0)))


def boxes_mesh(boxes: Iterable[dict[str, Any]]) -> Mesh:
    """The boxes as one mesh, inner faces included."""
    corners = [box_corners(box) for box in boxes]
    faces = [_BOX_FACES + 8 * index for index in range(len(corners))]
    return Mesh(np.concatenate(corners), np.concatenate(faces))


def lathe(profile: Sequence[tuple[float, float]], sides: int = 32) -> Mesh:
    """Turn a profile about +z: points (radius, height), in the order bottom, outside, top, inside.

    Where the first and the last radius are 0 the mesh is closed.
    """
    angles = 2 * np.pi * np.arange(sides) / sides
    rings = [np.stack([r * np.cos(angles), r * np.sin(angles), np.full(sides, h)], 1) for r, h in profile]
    here = np.arange(sides)
    after = (here + 1) % sides
    faces = []
    for ring in range(len(profile) - 1):
        low, high = ring * sides, (ring + 1) * sides
        if profile[ring + 1][0] > 0:
            faces.append(np.stack([low + here, high + after, high + here], 1))
        if profile[ring][0] > 0:
            faces.append(np.stack([low + here, low + after, high + after], 1))
    return _merge_poles(Mesh(np.concatenate(rings), np.concatenate(faces)))


def place(mesh: Mesh, axis: int, offset: np.ndarray, scale: Sequence[float] = (1.0, 1.0, 1.0)) -> Mesh:
    """Scale a mesh made about +z, turn its z to the given axis (0, 1, 2) cyclically, then move it."""
    vertices = np.roll(mesh.vertices * np.asarray(scale), axis - 2, axis=1)
    return Mesh(vertices + offset, mesh.faces)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def obj_text(mesh: Mesh, band_axis: int | None) -> str:
    """Wavefront OBJ. With `band_axis`, texture coordinates run from 0 to 1 along it, low end first."""
    lines = [f"v {number(v)}" for v in mesh.vertices]
    if band_axis is None:
        return "\n".join(lines + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces]) + "\n"
    along = mesh.vertices[:, band_axis]
    share = (along - along.min()) / (np.ptp(along) + 1e-9)
    lines += [f"vt 0.5 {number(s)}" for s in np.clip(share, 0.01, 0.99)]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in mesh.faces]
    return "\n".join(lines) + "\n"


def png_bytes(image: np.ndarray) -> bytes:
    """PNG of uint8 [H, W, 3]. Stored, not compressed: other zlib builds would give other bytes."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + image[row].tobytes() for row in range(height))
    blocks = [rows[i : i + 65535] for i in range(0, len(rows), 65535)]
    stored = b"\x78\x01"
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        stored += struct.pack("<BHH", last, len(block), 0xFFFF - len(block)) + block
    stored += struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", stored) + _chunk(b"IEND", b"")


def element(tag: str, attributes: dict[str, Any], children: Iterable[str] = ()) -> str:
    """One XML element as text. Attributes that are None are left out; numbers and lists are written by `number`."""
    written = [f'{key}="{number(value)}"' for key, value in attributes.items() if value is not None]
    opening = " ".join([tag, *written])
    inner = "".join(children)
    return f"<{opening}>\n{inner}</{tag}>\n" if inner else f"<{opening}/>\n"


def number(value: Any) -> str:
    """Numbers as MuJoCo reads them: 7 significant digits (the table has 5 decimals); text stays as it is."""
    if isinstance(value, str):
        return value
    return " ".join(f"{x + 0.0:.7g}" for x in np.atleast_1d(np.asarray(value, float)).round(7))


def _merge_poles(mesh: Mesh) -> Mesh:
    """Rings of radius 0 become one vertex each."""
    _, first, inverse = np.unique(mesh.vertices.round(9), axis=0, return_index=True, return_inverse=True)
    return Mesh(mesh.vertices[first], inverse.reshape(-1)[mesh.faces])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
