"""Batches of what one link has to send: everything of one event-loop turn, or of one round trip, in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def link_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that belongs to a link, whoever starts it.

    Ray cancels with a call all calls that were made under it, and finds those by the context of their task. A link is
    opened by one request and used by all, so its calls are made in an empty context: under nobody.
    """
    return asyncio.create_task(work, context=Context())


class TurnBatch(Generic[T]):
    """Collects items and sends them together, one call at a time, in order.

    While a call is under way what is added waits for the next, so the number of calls grows with turns and round
    trips, not with items. `send` must not raise; the owner bounds how much can be added.
    """

    def __init__(self, send: Callable[[tuple[T, ...]], Awaitable[None]]) -> None:
        self._send = send
        self._items: list[T] = []
        self._sender: asyncio.Task[None] | None = None

    def add(self, item: T) -> None:
        self._items.append(item)
        if self._sender is None or self._sender.done():
            self._sender = link_task(self._drain())

    async def _drain(self) -> None:
        while self._items:
            items, self._items = tuple(self._items), []
            await self._send(items)
