"""What a call costs, and a ledger that never lets paid calls exceed a limit.

The worst case of a call is written to the ledger before it is sent and replaced by what it did cost when the reply is
there. A call that was killed, timed out or came back unreadable may have been charged: its worst case stays.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.checks import check
from configs.data import AnnotatorConfig

OPENAI_URL = "https://api.openai.com/v1"
# USD per million tokens (in, out), standard tier, of OpenAI's pricing page (developers.openai.com/api/docs/pricing) as
# public copies of it had it in June 2026. Other servers and other models: annotator.usd_per_mtok_in and _out.
OPENAI_USD_PER_MTOK = {
    "gpt-3.5-turbo": (0.5, 1.5),
    "gpt-4": (30.0, 60.0),
    "gpt-4-turbo": (10.0, 30.0),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
}
MESSAGE_TOKENS = 16  # of a chat template around each message; OpenAI's take about four
SCHEMA_TOKENS = 700  # of the answer's JSON schema, which a server may put into the prompt; a bound, by its bytes
BYTES_PER_TOKEN = 4  # of English, for expectations; a bound takes one


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    prompt: float
    completion: float

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of a call."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def usd_text(usd: float) -> str:
    """`$12.30`, `$0.0042`."""
    return f"${usd:.2f}" if usd >= 1 else f"${usd:.4f}"


def price_of(config: AnnotatorConfig) -> Price:
    """The price given, or the table's. Raises ConfigError for a model whose price nobody said."""
    given = (config.usd_per_mtok_in, config.usd_per_mtok_out)
    if min(given) >= 0:
        return Price(*given)
    known = OPENAI_USD_PER_MTOK.get(config.model) if config.base_url.rstrip("/") == OPENAI_URL else None
    check(
        known is not None and max(given) < 0,
        f"the price of model {config.model!r} at {config.base_url} is not known, and nothing is spent without one; "
        "give annotator.usd_per_mtok_in=... and annotator.usd_per_mtok_out=... in USD per million tokens (both 0 for a "
        f"server of your own); known at {OPENAI_URL}: {', '.join(OPENAI_USD_PER_MTOK)}",
    )
    assert known is not None
    return Price(*known)


def prompt_tokens_at_most(messages: Sequence[Mapping[str, str]]) -> int:
    """Upper bound: byte-level tokenizers give at most one token per byte."""
    return SCHEMA_TOKENS + sum(MESSAGE_TOKENS + len(m["content"].encode()) for m in messages)


@dataclass(frozen=True)
class Forecast:
    """What the first questions will take; questions asked again come on top, within the same limit."""

    calls: int  # not in the cache
    cached: int
    prompt_tokens: int  # expected, as are the next two
    completion_tokens: int
    usd_expected: float
    usd_at_most: float

    @classmethod
    def of(cls, price: Price, sizes: Sequence[tuple[int, int]], cached: int = 0) -> Forecast:
        """sizes: of each call, the most tokens its prompt can have, and the room for its answer."""
        expected = [(prompt // BYTES_PER_TOKEN, room // 2) for prompt, room in sizes]  # answers stay below their room
        return cls(
            calls=len(sizes),
            cached=cached,
            prompt_tokens=sum(prompt for prompt, _ in expected),
            completion_tokens=sum(completion for _, completion in expected),
            usd_expected=sum(price.usd(*tokens) for tokens in expected),
            usd_at_most=sum(price.usd(*tokens) for tokens in sizes),
        )

    def text(self, spent_usd: float, limit_usd: float) -> str:
        """For people."""
        return (
            f"{self.calls} calls ({self.cached} replies kept from before), about {self.prompt_tokens} + "
            f"{self.completion_tokens} tokens, about {usd_text(self.usd_expected)}, at most "
            f"{usd_text(self.usd_at_most)} if nothing is asked again; {usd_text(spent_usd)} of --max-usd "
            f"{limit_usd:g} spent so far"
        )


class Ledger:
    """Append-only lines {id, usd}, shared by processes. The last line of an id counts; a torn last line is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def spent(self) -> float:
        """USD spent or reserved so far, by everybody."""
        return _total(self.path.read_bytes()) if self.path.exists() else 0.0

    def reserve(self, usd: float, limit_usd: float) -> str | None:
        """Set an amount aside; returns its id, None where the limit would be exceeded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if _total(file.read()) + usd > limit_usd:
                return None
            ticket = uuid.uuid4().hex[:16]
            _append(file.fileno(), ticket, usd)
        return ticket

    def settle(self, ticket: str, usd: float) -> None:
        """Replace what was set aside by what it cost."""
        with open(self.path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _append(file.fileno(), ticket, usd)


def _append(descriptor: int, ticket: str, usd: float) -> None:
    os.write(descriptor, f"\n{json.dumps({'id': ticket, 'usd': usd})}\n".encode())  # apart from a torn line before it
    os.fsync(descriptor)


def _total(content: bytes) -> float:
    amounts: dict[str, float] = {}
    for line in content.splitlines():
        if line.startswith(b"{") and line.endswith(b"}"):
            entry = json.loads(line)
            amounts[entry["id"]] = float(entry["usd"])
    return sum(amounts.values())
