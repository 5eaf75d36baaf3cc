"""A client that goes away ends the work that was done for it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive


class ClientGone(Exception):
    """The client went away before its request was answered."""


class UntilClientGone:
    """`async with UntilClientGone(receive):` cancels what runs inside when the client disconnects, and then raises
    `ClientGone`. The body of the request must have been read before.

    Works as `asyncio.timeout` does: the task that entered is cancelled, and its cancellation is taken back at the end.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._watcher = asyncio.create_task(self._watch(self._task))
        self._watcher.add_done_callback(_forget)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._watcher is not None
        self._watcher.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None

    async def _watch(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        task.cancel()


def _forget(watcher: asyncio.Task[None]) -> None:
    """A connection that fails while it is watched says nothing that its end does not say."""
    if not watcher.cancelled():
        watcher.exception()
