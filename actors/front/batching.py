"""Batches of what one link has to send: everything of one event-loop turn, or of one round trip, in one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from actors.supervisor import Supervisor

T = TypeVar("T")


class TurnBatch(Generic[T]):
    """Collects items and sends them together, in order, one call at a time.

    While a call is under way what is added waits for the next, so the number of calls grows with turns and round
    trips, not with items. And nothing overtakes: Ray delivers two calls that are under way at once in any order, where
    one of them carries much. The owner bounds how much can be added.

    When `send` raises, what was to be sent is dropped and `on_failure` hears of it; the next item begins anew.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        send: Callable[[tuple[T, ...]], Awaitable[None]],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._supervisor = supervisor
        self._send = send
        self._on_failure = on_failure
        self._items: list[T] = []
        self._sending = False

    def add(self, item: T) -> None:
        self._items.append(item)
        if not self._sending:
            self._sending = True
            self._supervisor.start("send", self._drain(), on_end=self._drained)

    def clear(self) -> None:
        """Drop what was not sent yet. A call that is under way goes on."""
        self._items.clear()

    async def _drain(self) -> None:
        while self._items:
            items, self._items = tuple(self._items), []
            await self._send(items)

    def _drained(self, failure: BaseException | None) -> None:
        self._sending = False
        if failure is not None:
            self._items.clear()
            self._on_failure(failure)
        elif self._items:  # added between the last look and this call
            self._sending = True
            self._supervisor.start("send", self._drain(), on_end=self._drained)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<TurnBatch: {len(self._items)} waiting, {'a call is under way' if self._sending else 'idle'}>"
