"""One call to an OpenAI-compatible server, and what its failures mean. The only file that imports openai.

The client's own retries are off: it gives up on a Retry-After above two minutes and never asks again about content.
Failures are a Fault (the transport; try again), BadContent (this question) or ConfigError (nothing can work).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from configs.checks import ConfigError
from configs.slices import RewordSlice
from data_pipeline.llm_cache import Request
from data_pipeline.llm_checks import BadContent, Completion, Reply
from data_pipeline.llm_pace import TOO_MANY_REQUESTS, Fault

JSON_MODES = ("schema", "object", "none")  # each is the next one's better
NO_KEY = "none"  # the client wants some key; servers of one's own need none
MAX_MESSAGE_CHARS = 300  # of a server's words in ours
_REFUSES_FORMAT = ("response_format", "json_schema", "json_object", "schema", "structured", "guided")
_REFUSES_QUESTION = ("content_filter", "content_policy_violation", "context_length_exceeded", "invalid_prompt")
_TRY_AGAIN = (408, 409, 425, TOO_MANY_REQUESTS)
_MAYBE_PAID = (408, 504, 524)  # a gateway stopped waiting; what lies behind it may have answered
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class ChatClient:
    """Sends requests to one server; remembers what its model does not understand."""

    def __init__(self, config: RewordSlice, api_key: str) -> None:
        self._config = config
        self._key = api_key
        self._key_as_written = re.compile("".join(map(_as_json, api_key)), re.IGNORECASE)
        self.json_mode = config.json_mode
        self.limit_name = "max_tokens"  # what everybody bounds an answer by; newer models want another name
        self._client = openai.AsyncOpenAI(
            api_key=api_key or NO_KEY,
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_read_as_utf8]}),
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def send(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """(body of a chat completion, response headers); the body never holds the key.

        Raises Fault, BadContent (the server will not answer this), ConfigError (wrong key, unknown model).
        """
        while True:
            tried = self.json_mode, self.limit_name
            try:
                return await self._send(request, *tried)
            except openai.APIStatusError as error:
                if not self._step_down(error, *tried):
                    raise self._meaning(error) from None

    async def _send(self, request: Request, json_mode: str, limit_name: str) -> tuple[str, Mapping[str, str]]:
        raw = self._client.chat.completions.with_raw_response
        arguments: dict[str, Any] = {"model": request.model, "messages": list(request.messages)}
        arguments[limit_name] = request.max_tokens
        try:
            async with asyncio.timeout(self._config.timeout_s):  # also of a body that trickles for ever
                match json_mode:
                    case "schema":
                        response = await raw.parse(response_format=Reply, **arguments)
                    case "object":
                        response = await raw.create(response_format={"type": "json_object"}, **arguments)
                    case _:
                        response = await raw.create(**arguments)
            body = self._clean(response.http_response.text)
            Completion.of(body)
        except (TimeoutError, openai.APITimeoutError) as error:
            sent = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            raise Fault(f"no answer within {self._config.timeout_s:g} s", maybe_paid=sent) from None
        except openai.APIConnectionError as error:
            sent = not isinstance(error.__cause__, httpx2.ConnectError)
            raise Fault(self._clean(f"{error} {error.__cause__}"), maybe_paid=sent) from None
        except ValueError as error:
            raise Fault(self._clean(f"unreadable response: {error}"), maybe_paid=True) from None
        return body, dict(response.headers)

    def _step_down(self, error: openai.APIStatusError, json_mode: str, limit_name: str) -> bool:
        """Whether the server refused how it was asked, and there is another way."""
        if error.status_code not in (400, 422):
            return False
        words = f"{error.message} {error.body}".lower()
        if limit_name == "max_tokens" and "max_completion_tokens" in words:
            self.limit_name = "max_completion_tokens"
            return True
        if json_mode != JSON_MODES[-1] and any(word in words for word in _REFUSES_FORMAT):
            lower = JSON_MODES[JSON_MODES.index(json_mode) + 1]
            self.json_mode = max(self.json_mode, lower, key=JSON_MODES.index)  # another call may have been first
            return True
        return False

    def _meaning(self, error: openai.APIStatusError) -> Exception:
        code, said = str(error.code or error.type), self._clean(error.message)[:MAX_MESSAGE_CHARS]
        status = error.status_code
        if status == TOO_MANY_REQUESTS and code in _NO_CREDIT:
            return ConfigError(f"the account has no credit left: {said}")
        if status in _TRY_AGAIN or status >= 500:
            paid = status in _MAYBE_PAID
            return Fault(f"status {status}: {said}", maybe_paid=paid, status=status, headers=error.response.headers)
        if status in (400, 413, 422) and (status == 413 or code in _REFUSES_QUESTION):
            return BadContent("declined", f"the server declined the request ({code})")
        remedy = {
            401: f"the key is wrong; give --llm-api-key or set {self._config.api_key_env}",
            403: f"the key may not use model {self._config.model!r} at {self._config.base_url}",
            404: f"no model {self._config.model!r} at {self._config.base_url}; see annotator.model, annotator.base_url",
        }.get(status, f"{self._config.base_url} does not take requests of model {self._config.model!r}")
        return ConfigError(f"{remedy} (status {status}: {said})")

    def _clean(self, text: str) -> str:
        """Without the key, should a server echo it; one that is part of ordinary text is no secret."""
        return self._key_as_written.sub("[key]", text) if len(self._key) >= 8 else text


async def _read_as_utf8(response: httpx2.Response) -> None:
    """JSON is UTF-8, with or without a mark, whatever a server calls it: charset=rot13 would raise on a paid reply."""
    response.encoding = "utf-8-sig"


def _as_json(character: str) -> str:
    """A pattern for a character as strings in JSON, and JSON in strings of JSON, may write it."""
    return rf"(?:(?<!\\)\\{{1,8}})?(?:{re.escape(character)}|u{ord(character):04x})"  # a run of them is tried once
