"""Where the output of one attempt waits for its consumer, inside a front."""

from __future__ import annotations

import asyncio

from actors.messages import Finished
from actors.results import TokenLogprobs


class AttemptLost(Exception):
    """An attempt is over without an end: its worker is gone, the link to it broke, or its place was taken back.
    Whether the request can go on elsewhere is for the front to decide.

    `taken_up` says whether the worker is known to have had it. Only then can the request be what the worker died of.
    `moved`: the worker lives and is being emptied, so this was no death.
    """

    def __init__(self, reason: str, *, taken_up: bool = False, moved: bool = False) -> None:
        super().__init__(reason)
        self.taken_up = taken_up
        self.moved = moved


class AttemptOutput:
    """Collects an attempt's pieces until they are taken: a streaming consumer wakes for every piece, one that wants
    the whole only at the end, or when it is lost. Bounded by the request's own max_new_tokens."""

    __slots__ = (
        "_finished",
        "_logprobs",
        "_loss",
        "_moved",
        "_texts",
        "_token_ids",
        "_waiter",
        "_whole",
        "taken_up",
        "worker_id",
    )

    def __init__(self, worker_id: str, *, whole: bool) -> None:
        self.worker_id = worker_id
        self.taken_up = False
        """The worker has said that it has the attempt."""
        self._whole = whole
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finished: Finished | None = None
        self._loss: str | None = None
        self._moved = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]) -> None:
        self._texts.append(text)
        self._token_ids += token_ids
        self._logprobs += logprobs
        if not self._whole:
            self._wake()

    def finish(self, finished: Finished) -> None:
        """The attempt's end has come; what follows is ignored."""
        self._finished = finished
        self._wake()

    def lose(self, reason: str, *, moved: bool = False) -> None:
        """No more will come. An attempt that has its end keeps it."""
        if self._finished is None and self._loss is None:
            self._loss, self._moved = reason, moved
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ready(self) -> bool:
        return self._finished is not None or self._loss is not None or (bool(self._texts) and not self._whole)

    async def take(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]:
        """Everything since the last call, joined; the last one carries how it ended.

        :raises AttemptLost: no more will come, and all that had come has been taken.
        """
        if not self._ready():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._loss is not None and not self._texts:
            raise AttemptLost(self._loss, taken_up=self.taken_up, moved=self._moved)
        piece = "".join(self._texts), tuple(self._token_ids), tuple(self._logprobs), self._finished
        self._texts, self._token_ids, self._logprobs = [], [], []
        return piece

    def __repr__(self) -> str:
        state = "finished" if self._finished else f"lost ({self._loss})" if self._loss else "running"
        return f"<AttemptOutput on {self.worker_id}: {state}, {len(self._token_ids)} tokens not taken>"
