"""Ways to ask: over HTTP, as a client that takes no more than HTTP's own promises, and from a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from actors import Pool
from tests.chaos.answers import Answer
from tests.chaos.questions import HTTP_STREAM, HTTP_WHOLE, SCRIPT_STREAM, Question

MOST_RETRIES = 8
REFUSED = frozenset({429, 503})


class Failed(Exception):
    """The server has told an error of its own."""

    def __init__(self, told: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(told)
        self.retry_after_s = retry_after_s


class CutOff(Exception):
    """The connection broke, or Serve's proxy says that nobody was there to answer."""


class Asker:
    """`replica_died(started_s)` tells whether a replica was killed since then, so that a request may be cut off."""

    def __init__(self, http: httpx.AsyncClient, url: str, pool: Pool, replica_died: Callable[[float], bool]) -> None:
        self._http, self._url, self._pool = http, url, pool
        self._replica_died = replica_died

    async def ask(self, question: Question, answer: Answer) -> None:
        """Fill the answer in as it comes.

        :raises Exception: it failed.
        """
        if question.way in (HTTP_STREAM, HTTP_WHOLE):
            await self._over_http(question, answer)
        elif question.way == SCRIPT_STREAM:
            async for delta in self._pool.stream(question.prompt, **question.pool_options()):
                _take_result(answer, delta)
        else:
            _take_result(answer, await self._pool.generate.remote(question.prompt, **question.pool_options()))

    async def _over_http(self, question: Question, answer: Answer) -> None:
        """As a stock client does, ask again when told to; and when the replica that answered was killed."""
        for _ in range(MOST_RETRIES):
            answer.begin_again()
            try:
                await (self._stream if question.streamed else self._whole)(question, answer)
                return
            except Failed as failure:
                if failure.retry_after_s is None:
                    raise
                answer.refusals += 1
                pause_s = failure.retry_after_s
            except (httpx.TransportError, CutOff):
                if not self._replica_died(answer.started_s):
                    raise
                answer.cut_off += 1
                pause_s = 0.2
            await asyncio.sleep(pause_s)
        raise Failed(f"not answered in {MOST_RETRIES} tries")

    async def _whole(self, question: Question, answer: Answer) -> None:
        response = await self._http.post(f"{self._url}/v1/completions", json=question.body())
        if response.status_code != 200:
            raise _failure(response.status_code, response.headers, response.text)
        _take_event(answer, response.json())

    async def _stream(self, question: Question, answer: Answer) -> None:
        async with self._http.stream("POST", f"{self._url}/v1/completions", json=question.body()) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode()
                raise _failure(response.status_code, response.headers, text)
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    answer.comments += 1
                elif line == "data: [DONE]":
                    return
                elif line:
                    _take_event(answer, json.loads(line.removeprefix("data: ")))
        raise CutOff("the stream ended without an end")


def _failure(status: int, headers: httpx.Headers, text: str) -> Exception:
    """Our own errors are JSON; all else is from a proxy that had nobody to ask."""
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return CutOff(f"{status} {text[:200]}")
    retry_ms = headers.get("retry-after-ms")
    retry_after_s = float(retry_ms) / 1000 if retry_ms and status in REFUSED else None
    return Failed(f"{status} {error}", retry_after_s=retry_after_s)


def _take_event(answer: Answer, event: dict[str, Any]) -> None:
    if "error" in event:
        raise Failed(f"in the stream: {event['error']}")
    for choice in event["choices"]:
        logprobs = choice.get("logprobs") or {"tokens": []}
        answer.take(choice["index"], choice["text"], logprobs["tokens"], choice["finish_reason"])
    usage = event.get("usage")
    if usage is not None:
        answer.usage = usage["prompt_tokens"], usage["completion_tokens"]


def _take_result(answer: Answer, result: Any) -> None:
    reason = result.finish_reason
    answer.take(0, result.text, [str(token) for token in result.token_ids], None if reason is None else str(reason))
    if result.usage is not None:
        answer.usage = result.usage.prompt_tokens, result.usage.completion_tokens
