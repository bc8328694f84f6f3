"""The error of a setting that does not fit, and the checks that raise it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range (exit 2)."""


def check(condition: bool, message: str) -> None:  # noqa: FBT001 - it is the subject
    """Raise ConfigError(message) unless condition."""
    if not condition:
        raise ConfigError(message)


def in_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless low <= value <= high."""
    allowed = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
    check(low <= value <= high, f"{name}={value!r} is out of range; allowed: {allowed}")
