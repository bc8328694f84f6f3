"""Whose a row is: adapter, base, protocol, what computed it, and the environment that really ran.

Rows of different ones never merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from data_pipeline.contract import digest
from evaluation.episodes import Protocol


@dataclass(frozen=True)
class Identity:
    """What all rows of one evaluation have in common."""

    subset: str
    adapter: str  # digest of the policy's weights and everything beside them
    base: str  # the model under the adapter; "" for a control
    protocol: Protocol
    environment: Mapping[str, Any]  # its fingerprint, as a simulator reports it
    computed: str = ""  # the policy's device and number format, `cpu float32`; "" for a control

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the environment's fingerprint."""
        return digest(self.environment)

    @cached_property
    def run(self) -> str:
        """Names rows that may stand in one ledger."""
        conditions = {"protocol": asdict(self.protocol), "fingerprint": self.environment}
        return digest({"adapter": self.adapter, "base": self.base, "computed": self.computed, **conditions})

    @cached_property
    def columns(self) -> dict[str, str]:
        """What every row says, in the ledger and in episodes.jsonl."""
        return {
            "subset": self.subset,
            "run": self.run,
            "protocol": self.protocol.name,
            "fingerprint": self.fingerprint,
            "adapter": self.adapter,
            "base": self.base,
        }


def identity_of(summary: Mapping[str, Any]) -> Identity:
    """Of a finished evaluation. Raises KeyError or TypeError for the summary of another version."""
    return Identity(
        subset=summary["subset"],
        adapter=summary["adapter"],
        base=summary["card"].get("base", ""),
        protocol=Protocol(**summary["protocol"]),
        environment=summary["fingerprint"],
        computed=summary["card"].get("computed", ""),
    )


def difference(first: Any, second: Any) -> str:
    """How two conditions differ, key by key: `look: 'light' and 'official'`; "" where they do not."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
        return "; ".join(f"{key}: {first.get(key)!r} and {second.get(key)!r}" for key in keys)
    return "" if first == second else f"{first!r} and {second!r}"
