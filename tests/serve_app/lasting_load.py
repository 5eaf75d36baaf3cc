"""Clients that ask again and again while something happens to a server, and know what each answer must be."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from actors.engines.simulated import expected_tokens
from tests.serve_app.running import MODEL, ask

TIMEOUT_S = 240.0


class LastingLoad:
    """`async with LastingLoad(url) as load:` asks from entrance to exit, where every request that is under way is
    answered first. Every third client wants whole answers, the others streams."""

    def __init__(self, url: str, *, clients: int = 6, tokens: int = 60, model: str = MODEL, once: bool = False) -> None:
        """`once`: each client asks one thing only."""
        self._once = once
        self._url, self._clients, self._tokens, self._model = url, clients, tokens, model
        self._numbers = itertools.count(10)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.requests = 0
        self.wrong: Counter[str] = Counter()
        """How requests ended that ended otherwise than without a fault."""
        self.longest_gap_s = 0.0
        """The longest time in which a client that waited heard nothing."""

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=self._clients)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits)
        self._tasks = [asyncio.create_task(self._client(stream=number % 3 != 0)) for number in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def answered(self, more: int, within_s: float = 120.0) -> None:
        """Wait until so many more requests were answered."""
        target = self.requests + more
        async with asyncio.timeout(within_s):
            while self.requests < target:
                await asyncio.sleep(0.02)

    async def _client(self, *, stream: bool) -> None:
        while not self._stop.is_set():
            prompt = [7, 8, 9, next(self._numbers) % 200 + 10]
            try:
                ended = await (self._stream(prompt) if stream else self._whole(prompt))
            except httpx.HTTPError as failure:
                ended = type(failure).__name__
            self.requests += 1
            if ended is not None:
                self.wrong[ended] += 1
                await asyncio.sleep(0.1)
            if self._once:
                return

    def _body(self, prompt: list[int], *, stream: bool) -> dict[str, Any]:
        return ask(self._tokens, stream=stream, prompt=prompt) | {"model": self._model}

    async def _whole(self, prompt: list[int]) -> str | None:
        sent_s = time.monotonic()
        answer = await self._http.post(f"{self._url}/v1/completions", json=self._body(prompt, stream=False))
        self._waited(sent_s)
        if answer.status_code != 200:
            return _refusal(answer.status_code, answer.headers, answer.text)
        return self._judge(prompt, answer.json()["choices"][0]["text"])

    async def _stream(self, prompt: list[int]) -> str | None:
        heard_s, text, last = time.monotonic(), "", ""
        body = self._body(prompt, stream=True)
        async with self._http.stream("POST", f"{self._url}/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                return _refusal(answer.status_code, answer.headers, (await answer.aread()).decode())
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                self._waited(heard_s)
                heard_s, last = time.monotonic(), line.removeprefix("data: ")
                if last == "[DONE]":
                    continue
                event = json.loads(last)
                if "error" in event:
                    return f"cut: {event['error']['code']}"
                text += "".join(choice["text"] for choice in event["choices"])
        return self._judge(prompt, text) if last == "[DONE]" else "cut without a word"

    def _judge(self, prompt: list[int], text: str) -> str | None:
        expected = [f"w{token}" for token in expected_tokens(tuple(prompt), self._tokens)]
        return None if text.split() == expected else "another text"

    def _waited(self, since_s: float) -> None:
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - since_s)

    def __repr__(self) -> str:
        return f"<LastingLoad: {self.requests} requests, {dict(self.wrong)}, gap {self.longest_gap_s:.1f} s>"


def _refusal(status: int, headers: httpx.Headers, body: str) -> str:
    error = json.loads(body)["error"] if body.startswith("{") else {"code": "", "message": body}
    told = f"{status} {error['code']}" + ("" if "retry-after" in headers else " without Retry-After")
    return told if status == 404 else f"{told}: {error['message'][:80]}"
