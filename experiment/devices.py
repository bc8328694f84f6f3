"""Which CUDA devices this process sees, without importing torch: `--dry-run` must answer at once."""

from __future__ import annotations

import ctypes
import os

from configs.checks import check


def cuda_devices() -> int:
    """Number of CUDA devices that the driver shows this process; 0 without a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def device_groups(size: int) -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES of each stage that may run at once, `size` devices each. Raises ConfigError if too few."""
    names = device_names()
    check(len(names) >= size or not names, f"trainer.processes={size}; allowed here: 1 to {len(names)}, one per device")
    return tuple(",".join(names[first : first + size]) for first in range(0, len(names) - size + 1, size))


def device_names() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls each device that this process sees."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible) if visible and cuda_devices() else tuple(str(i) for i in range(cuda_devices()))
