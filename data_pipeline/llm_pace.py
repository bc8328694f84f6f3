"""How fast a server may be asked: calls at once, and the pauses that its answers and failures ask for."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from data_pipeline.contract import EnvironmentProblem, Interrupted

TOO_MANY_REQUESTS = 429
MAX_WAIT_S = 3600.0  # a server that wants a longer pause ends the run: the same command goes on later
POLL_S = 1.0  # how often somebody who waits looks whether to stop
PLACE_POLL_S = 0.05
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Fault(Exception):
    """The transport failed; the same request may work later."""

    def __init__(
        self, message: str, *, maybe_paid: bool, status: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.maybe_paid = maybe_paid  # the server may have answered, and charged for it
        self.too_many = status == TOO_MANY_REQUESTS
        self.headers = headers or {}


class Clock:
    """The time and a way to wait; tests have another."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Pace:
    """At most `limit` calls at once, and none before `resume_at`. A refusal halves the limit, each success raises it.

    The headers are OpenAI's x-ratelimit-{remaining,reset}-{requests,tokens}.
    """

    def __init__(self, concurrency: int, clock: Clock, stop_requested: Callable[[], bool]) -> None:
        self.clock = clock
        self.limit = float(concurrency)
        self.most = concurrency
        self.active = 0
        self._places = asyncio.Semaphore(concurrency)
        self.resume_at = 0.0
        self._stop_requested = stop_requested

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for a place, hold it. Raises Interrupted on a stop, EnvironmentProblem before a pause of hours."""
        async with self._places:
            self._heed_stop()
            while (pause := self.resume_at - self.clock.now()) > 0 or self.active >= int(self.limit):
                if pause > MAX_WAIT_S:
                    raise EnvironmentProblem(
                        f"the server's rate limit allows no request for {pause:.6g} s; replies are kept, and the same "
                        "command goes on after that"
                    )
                await self._poll(max(pause, PLACE_POLL_S))
            self.active += 1
            try:
                yield
            finally:
                self.active -= 1

    async def wait(self, seconds: float) -> None:
        """Wait. Raises Interrupted on a stop."""
        end = self.clock.now() + seconds
        while (left := end - self.clock.now()) > 0:
            await self._poll(left)

    def answered(self, headers: Mapping[str, str], tokens: int) -> None:
        """After a reply: a little faster, unless the server has no room left for another call of so many tokens."""
        self.limit = min(self.most, self.limit + 1 / self.limit)
        self.hold(reset_s(headers, tokens))

    def refused(self, seconds: float, headers: Mapping[str, str]) -> None:
        """After a 429: half as many calls at once, none for as long as the server says."""
        self.limit = max(1.0, self.limit / 2)
        self.hold(max(seconds, reset_s(headers)))

    def hold(self, seconds: float) -> None:
        """No call for so long."""
        self.resume_at = max(self.resume_at, self.clock.now() + seconds)

    async def _poll(self, seconds: float) -> None:
        await self.clock.sleep(min(seconds, POLL_S))
        self._heed_stop()

    def _heed_stop(self) -> None:
        if self._stop_requested():
            raise Interrupted


def reset_s(headers: Mapping[str, str], tokens: int = 1) -> float:
    """Seconds until another request of so many tokens is allowed, 0 where it is now or nothing is said."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    waits = [0.0]
    for kind, needed in (("requests", 1), ("tokens", tokens)):
        left = _number(lower.get(f"x-ratelimit-remaining-{kind}", ""))
        if left is not None and left < needed:
            waits.append(duration_s(lower.get(f"x-ratelimit-reset-{kind}", "")))
    return max(waits)


def duration_s(text: str) -> float:
    """Seconds of "6m0s", "20ms", "1h2m" or a bare number; 0 of anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        return 0.0
    return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION.findall(text))


def wait_asked_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for (a number or a date; also in milliseconds); 0 where it asks for none."""
    lower = {name.lower(): value for name, value in headers.items()}
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        if (seconds := _number(lower.get(name, ""))) is not None:
            return max(0.0, seconds * unit_s)
    try:
        date = email.utils.parsedate_to_datetime(lower.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and value != float("inf") else None
