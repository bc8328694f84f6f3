"""Places where a run can be watched: the event file's bytes, and W&B that never fails a run."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from training.run_log import numbers, open_logs
from training.tensorboard import EventFile, crc32c


def records(path: Path) -> list[bytes]:
    """Payloads, their framing checked."""
    data, out = path.read_bytes(), []
    while data:
        length, at, _ = *struct.unpack("<QI", data[:12]), None
        payload = data[12 : 12 + length]
        for covered, found in ((data[:8], at), (payload, struct.unpack("<I", data[12 + length : 16 + length])[0])):
            unmasked = (found - 0xA282EAD8) & 0xFFFFFFFF
            assert crc32c(covered) == ((unmasked >> 17) | (unmasked << 15)) & 0xFFFFFFFF
        out.append(payload)
        data = data[16 + length :]
    return out


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value


def test_an_event_file_holds_the_scalars(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 12.5)
    file.write(300, {"loss": 0.25}, 13.0)
    file.close()
    version, scalar = records(next(tmp_path.iterdir()))
    assert version == b"\x09" + struct.pack("<d", 12.5) + b"\x1a\x0dbrain.Event:2"
    value = b"\x0a\x04loss\x15" + struct.pack("<f", 0.25)
    summary = b"\x0a" + bytes([len(value)]) + value
    assert scalar == b"\x09" + struct.pack("<d", 13.0) + b"\x10\xac\x02" + b"\x2a" + bytes([len(summary)]) + summary


def test_only_finite_numbers_are_drawn() -> None:
    row = {"step": 3, "loss": 0.5, "loss_text": None, "skipped": False, "bad": float("nan")}
    assert numbers(row) == {"loss": 0.5, "skipped": 0.0}


def test_wandb_is_not_imported_unless_asked(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from training.run_log import open_logs; "
        f"open_logs(['tensorboard'], pathlib.Path({str(tmp_path)!r}), 'x'); assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_wandb_without_a_key_is_offline_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    (log,) = open_logs(["wandb"], tmp_path, "a run")
    log.write(1, {"loss": 0.5})
    log.close()
    assert list(tmp_path.glob("wandb/offline-run-*"))
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(said) == 1
    assert "offline" in said[0]
