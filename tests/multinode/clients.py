"""Clients of a served pool of the simulated engine, as a program that runs on any machine:

    python -m tests.multinode.clients URL --clients 6 --tokens 60 --key KEY

They ask for streams, and know what each answer must be. A line of JSON goes out for every request that has begun (an
empty one) or ended (an `Answer`). When standard input is closed they ask nothing more, and end with their last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from typing import Any

import httpx

from actors.engines.simulated import expected_tokens

MODEL = "sim"
TIMEOUT_S = 150.0
PAUSE_S = 0.2
"""After a request that was not answered."""


class Clients:
    def __init__(self, url: str, tokens: int, key: str) -> None:
        self._url, self._tokens = url, tokens
        self._numbers = itertools.count(10)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self.stopped = asyncio.Event()

    async def run(self, clients: int, *, once: bool) -> None:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, headers=self._headers) as self._http:
            await asyncio.gather(*(self._client(once=once) for _ in range(clients)))

    async def _client(self, *, once: bool) -> None:
        while not self.stopped.is_set():
            sent_s = time.monotonic()
            stream = _Stream(sent_s)
            try:
                fault = await self._ask(stream)
            except httpx.HTTPError as failure:
                fault = type(failure).__name__
            done_s = time.monotonic()
            stream.heard(done_s)
            told = {"sent_s": sent_s, "done_s": done_s, "fault": fault}
            _tell({**told, "gap_s": stream.gap_s, "gap_from_s": stream.gap_from_s})
            if once:
                return
            if fault is not None:
                await asyncio.sleep(PAUSE_S)

    async def _ask(self, stream: _Stream) -> str | None:
        prompt = [7, 8, 9, next(self._numbers) % 200 + 10]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": self._tokens, "temperature": 0, "ignore_eos": True}
        async with self._http.stream("POST", f"{self._url}/v1/completions", json=body | {"stream": True}) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code} {(await answer.aread()).decode()[:200]}"
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and (fault := stream.take(line.removeprefix("data: "))):
                    return fault
        if not stream.whole:
            return "cut without a word"
        expected = [f"w{token}" for token in expected_tokens(tuple(prompt), self._tokens)]
        return None if stream.text.split() == expected else "another text"


class _Stream:
    """What has come of one request."""

    def __init__(self, sent_s: float) -> None:
        self.text = ""
        self.gap_s, self.gap_from_s = 0.0, sent_s
        self._heard_s = sent_s
        self.whole = False

    def heard(self, now_s: float) -> None:
        if now_s - self._heard_s > self.gap_s:
            self.gap_s, self.gap_from_s = now_s - self._heard_s, self._heard_s
        self._heard_s = now_s

    def take(self, data: str) -> str | None:
        """An event; returns what is wrong, if it says so."""
        self.heard(time.monotonic())
        if data == "[DONE]":
            self.whole = True
            return None
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            return f"cut: {event['error']}"
        if not self.text:
            _tell({})
        self.text += "".join(choice["text"] for choice in event["choices"])
        return None


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--once", action="store_true")
    asked = parser.parse_args()
    clients = Clients(asked.url, asked.tokens, asked.key)

    async def stop() -> None:
        await asyncio.to_thread(sys.stdin.read)
        clients.stopped.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        await clients.run(asked.clients, once=asked.once)


if __name__ == "__main__":
    asyncio.run(main())
