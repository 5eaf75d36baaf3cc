"""A client that goes away ends the work that was done for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive

from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)


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
        self._tasks = Supervisor("client")

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._tasks.start("watching the connection", self._watch(), on_end=self._client_gone)
        return self

    def gone_with(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Work until the end of the block, beside what runs inside. If it ends before, the client is gone."""
        self._tasks.start(name, work, on_end=self._client_gone)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._tasks.shut_down()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _client_gone(self, failure: BaseException | None) -> None:
        """A connection that fails while it is watched has no client any more either."""
        if failure is not None:
            logger.debug("A connection failed while it was watched: %r", failure)
        assert self._task is not None
        self._gone = True
        self._task.cancel()
