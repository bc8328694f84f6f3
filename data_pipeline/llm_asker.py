"""Questions -> answers, through the cache, within the money, at the server's pace. Knows nothing of annotations."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.llm_cache import ReplyCache, Request
from data_pipeline.llm_checks import BadContent, Completion
from data_pipeline.llm_money import Ledger, Price, prompt_tokens_at_most, usd_text
from data_pipeline.llm_pace import MAX_WAIT_S, Clock, Fault, Pace, wait_asked_s

MAX_FAULTS = 8  # of one request, before the server is given up
MAX_REFUSALS = 60  # for too many requests: the server says when to come back
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0


class Client(Protocol):
    """Sends one request. Raises Fault, BadContent, ConfigError."""

    async def send(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """(body, response headers)."""
        ...


class Asker:
    """Each request is sent once at most, whoever asks for it, now or in an earlier run."""

    def __init__(
        self,
        client: Client,
        cache: ReplyCache,
        ledger: Ledger,
        price: Price,
        limit_usd: float,
        concurrency: int,
        stop_requested: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
    ) -> None:
        self.client = client
        self.cache = cache
        self.ledger = ledger
        self.price = price
        self.limit_usd = limit_usd
        self.pace = Pace(concurrency, clock or Clock(), lambda: self.failure is not None or stop_requested())
        self.failure: Exception | None = None  # stops everybody; what is in flight still arrives
        self.sent = 0
        self._in_flight = 0
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def completion(self, request: Request) -> Completion:
        """The answer, from the cache where it is.

        Raises BadContent where the server declines this request, ConfigError and EnvironmentProblem where nothing can
        go on (which stops every other caller), Interrupted on a stop.
        """
        async with self._locks[request.key]:
            body = self.cache.get(request)
            if body is None:
                try:
                    body = await self._pay(request)
                except (ConfigError, EnvironmentProblem, OSError) as failure:
                    self.failure = self.failure or failure
                    raise
        return Completion.of(body)

    async def _pay(self, request: Request) -> str:
        faults = {True: 0, False: 0}  # too many requests or not -> how often
        while True:
            try:
                async with self.pace.turn():
                    return await self._attempt(request)
            except Fault as fault:
                faults[fault.too_many] += 1
                if faults[False] >= MAX_FAULTS or faults[True] >= MAX_REFUSALS:
                    raise EnvironmentProblem(
                        f"{request.base_url} gave no usable answer in {sum(faults.values())} attempts (last: {fault}); "
                        "replies are kept, and the same command goes on with what is missing"
                    ) from None
                await self._back_off(request, fault, faults[fault.too_many])

    async def _attempt(self, request: Request) -> str:
        """Send once. The reply is on the disk before it is looked at; the ledger never says less than was charged."""
        tokens = prompt_tokens_at_most(request.messages)
        ticket = await self._reserve(self.price.usd(tokens, request.max_tokens))
        self._in_flight += 1
        try:
            body, headers = await self.client.send(request)
        except (Fault, BadContent, ConfigError) as problem:
            if not (isinstance(problem, Fault) and problem.maybe_paid):
                self.ledger.settle(ticket, 0.0)
            raise
        finally:
            self._in_flight -= 1
        self.cache.put(request, body)
        self.sent += 1
        if (cost := cost_usd(Completion.of(body), self.price)) is not None:
            self.ledger.settle(ticket, cost)
        self.pace.answered(headers, tokens + request.max_tokens)
        return body

    async def _reserve(self, usd: float) -> str:
        while (ticket := self.ledger.reserve(usd, self.limit_usd)) is None:
            if not self._in_flight:  # nobody will give anything back
                raise ConfigError(
                    f"the next call may cost {usd_text(usd)}, and {usd_text(self.ledger.spent())} of --max-usd "
                    f"{self.limit_usd:g} are spent ({self.ledger.path}); replies are kept: the same command with a "
                    "greater --max-usd goes on"
                )
            await self.pace.wait(0.1)
        return ticket

    async def _back_off(self, request: Request, fault: Fault, times: int) -> None:
        asked = wait_asked_s(fault.headers)
        if asked > MAX_WAIT_S:
            raise EnvironmentProblem(
                f"{request.base_url} wants no request for {asked:.6g} s ({fault}); the same command goes on after that"
            )
        ceiling = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(times - 1, 10))
        jitter = random.Random(f"{request.key} {times}").uniform(0.5, 1.0) * ceiling
        if fault.too_many:
            self.pace.refused(asked or jitter, fault.headers)
        await self.pace.wait(asked + 0.1 * jitter if asked else jitter)


def cost_usd(completion: Completion, price: Price) -> float | None:
    """What a reply cost, None where the server did not count its tokens."""
    if min(completion.prompt_tokens, completion.completion_tokens) < 0:
        return None
    return price.usd(completion.prompt_tokens, completion.completion_tokens)
