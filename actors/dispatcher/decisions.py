"""Decisions on their way from the dispatcher to fronts: a stream for each. Pure asyncio.

Who asked for what is the scheduler's to know. Here is only what a front's stream has not taken yet.
"""

from __future__ import annotations

import asyncio

from actors.messages import DispatcherNews

HEARTBEAT_S = 0.75
"""A stream that has nothing to tell says so in this time, so that a front can tell it from one that is broken; and Ray
tells a stream that its reader is gone only when it says something: a dead front's requests may wait on for so long."""


class DecisionStream:
    """Decisions for one front that its stream has not taken yet. Bounded by what the front has asked for."""

    def __init__(self) -> None:
        self._decisions: list[DispatcherNews] = []
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, decision: DispatcherNews) -> None:
        self._decisions.append(decision)
        self._filled.set()

    def close(self) -> None:
        """No more will come: the stream ends when what is there has been taken."""
        self._closed = True
        self._filled.set()

    async def take(self) -> tuple[DispatcherNews, ...] | None:
        """Everything there is, once there is something; nothing, after HEARTBEAT_S without any; None after the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._filled.wait()
        except TimeoutError:
            return ()
        decisions, self._decisions = tuple(self._decisions), []
        if self._closed:
            return decisions or None
        self._filled.clear()
        return decisions


class DecisionStreams:
    """The open stream of each front."""

    def __init__(self) -> None:
        self._streams: dict[str, DecisionStream] = {}

    def open(self, front_id: str) -> DecisionStream:
        """A front has one stream at a time: a newer one ends the one before, whose front has left it."""
        before = self._streams.get(front_id)
        if before is not None:
            before.close()
        stream = self._streams[front_id] = DecisionStream()
        return stream

    def close(self, front_id: str, stream: DecisionStream) -> bool:
        """A stream has ended; returns whether its front is gone with it, which it is not if it has opened another."""
        if self._streams.get(front_id) is not stream:
            return False
        del self._streams[front_id]
        return True

    def close_all(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def put(self, front_id: str, decision: DispatcherNews) -> None:
        """Tell a front. One that is not there asks again for what is undecided when it is back."""
        stream = self._streams.get(front_id)
        if stream is not None:
            stream.put(decision)

    def put_to_all(self, decision: DispatcherNews) -> None:
        """Tell whoever it is for, where only the fronts know that."""
        for stream in self._streams.values():
            stream.put(decision)

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"<DecisionStreams: {', '.join(self._streams) or 'none'}>"
