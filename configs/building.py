"""Plain values <-> dataclasses.

`build` turns plain mappings into frozen dataclasses and names whatever does not fit. `canonical` is the JSON view
that goes into a stage's key: fields made with `not_in_key` cannot change a result and are left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any

from configs.checks import ConfigError, check


def not_in_key(default: Any) -> Any:
    """A field that cannot change a result (workers, devices): not part of a stage's key."""
    return field(default=default, metadata={"key": False})


def added(default: Any) -> Any:
    """A field that came later: at its default it is not part of a key, so that older results keep theirs."""
    return field(default=default, metadata={"unless": default})


def build(cls: type[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """Make a dataclass from plain values, recursively. Raises ConfigError that names the key and the nearest one."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {path}{near[0]}?" if near else f"allowed: {', '.join(names)}"
            raise ConfigError(f"unknown key {path}{key}; {hint}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    check(not missing, f"missing key {path}{', '.join(missing)}")
    return cls(**{k: _convert(hints[k], v, f"{path}{k}") for k, v in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        check(isinstance(value, Mapping), f"{path}={value!r} must be a group of keys")
        return build(hint, value, f"{path}.")
    if origin is tuple:
        check(isinstance(value, (list, tuple)), f"{path}={value!r} must be a list")
        args = typing.get_args(hint)
        kinds = [args[0]] * len(value) if args[-1] is ... else list(args)
        check(len(kinds) == len(value), f"{path}={value!r} must have {len(kinds)} entries")
        return tuple(_convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in hint)
            raise ConfigError(f"{path}={value!r}; allowed: {allowed}") from None
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    good = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(good, f"{path}={value!r} must be of type {hint.__name__}, not {type(value).__name__}")
    return value


_NEVER = object()


def canonical(value: Any, *, key_only: bool = True) -> Any:
    """Plain JSON view of a dataclass tree. With `key_only`, without fields that are not part of a key now."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: canonical(getattr(value, f.name), key_only=key_only)
            for f in dataclasses.fields(value)
            if not key_only
            or (f.metadata.get("key", True) and getattr(value, f.name) != f.metadata.get("unless", _NEVER))
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): canonical(v, key_only=key_only) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [canonical(v, key_only=key_only) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration; use plain values")
