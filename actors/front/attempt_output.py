"""Where the output of one attempt waits for its consumer, inside a front."""

from __future__ import annotations

import asyncio

from actors.messages import Finished
from actors.results import TokenLogprobs


class AttemptLost(Exception):
    """The worker of an attempt is gone; whether the request can go on elsewhere is for the front to decide."""


class Inbox:
    """Collects an attempt's pieces until they are taken: a streaming consumer wakes for every piece, one that wants
    the whole only at the end. Bounded by the request's own max_new_tokens."""

    __slots__ = ("_finished", "_logprobs", "_loss", "_texts", "_token_ids", "_waiter", "_whole", "worker_id")

    def __init__(self, worker_id: str, *, whole: bool) -> None:
        self.worker_id = worker_id
        self._whole = whole
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finished: Finished | None = None
        self._loss: AttemptLost | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]) -> None:
        self._texts.append(text)
        self._token_ids += token_ids
        self._logprobs += logprobs
        if not self._whole:
            self._wake()

    def finish(self, finished: Finished) -> None:
        self._finished = finished
        self._wake()

    def lose(self, reason: str) -> None:
        if self._finished is None:
            self._loss = AttemptLost(reason)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ready(self) -> bool:
        return self._finished is not None or self._loss is not None or (bool(self._texts) and not self._whole)

    async def take(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]:
        """Everything since the last call, joined; the last one carries how it ended.

        :raises AttemptLost: the worker went away, after all that it had sent has been taken.
        """
        if not self._ready():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._loss is not None and (self._whole or not self._texts):
            raise self._loss
        piece = "".join(self._texts), tuple(self._token_ids), tuple(self._logprobs), self._finished
        self._texts, self._token_ids, self._logprobs = [], [], []
        return piece
