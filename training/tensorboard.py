"""Scalars as TensorBoard reads them: an event file is a series of records, each a protocol-buffer message.

Written here in a page, so that no package is needed: record framing as TFRecord's (length, masked CRC-32C of both),
messages `Event{1: wall time, 2: step, 3: file version, 5: Summary{1: Value{1: tag, 2: simple value}}}`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_MASK_DELTA = 0xA282EAD8
_VERSION = b"brain.Event:2"


class EventFile:
    """One file of scalars, made anew."""

    def __init__(self, folder: Path, wall_time_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{int(wall_time_s)}.nora-ecot"
        self._file: BinaryIO = path.open("wb")
        self._append(_double(1, wall_time_s) + _bytes(3, _VERSION))

    def write(self, step: int, values: Mapping[str, float], wall_time_s: float) -> None:
        """All values of one step; on the disk when this returns."""
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in values.items()
        )
        self._append(_double(1, wall_time_s) + b"\x10" + _varint(step) + _bytes(5, summary))

    def close(self) -> None:
        """No more values."""
        self._file.close()

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_table_entry(byte) for byte in range(256))


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)
