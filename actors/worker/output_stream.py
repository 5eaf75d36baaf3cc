"""Output for one stream of a front, from the engine's thread to whoever reads the stream."""

from __future__ import annotations

import asyncio

from actors.messages import StepOutput
from actors.worker.output_columns import OutputColumns

HEARTBEAT_S = 0.75
"""A stream that has nothing to tell says so in this time. Its reader can tell it from one that is broken; and Ray tells
a stream that its reader is gone only when it says something, so this is how long a dead front's jobs may go on."""


class OutputStream:
    """Output that was not read yet: of several steps where the reader is slower than the engine. It is bounded by what
    the front's attempts may generate."""

    def __init__(self) -> None:
        self._columns = OutputColumns()
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, columns: OutputColumns) -> None:
        if self._columns:
            self._columns.extend(columns)
        else:
            self._columns = columns
        self._filled.set()

    def close(self) -> None:
        """No more will come: the stream ends when what is there has been read."""
        self._closed = True
        self._filled.set()

    async def take(self) -> StepOutput | None:
        """Everything there is, once there is something; nothing, after HEARTBEAT_S without any; None after the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._filled.wait()
        except TimeoutError:
            return StepOutput()
        if not self._columns:
            return None
        columns, self._columns = self._columns, OutputColumns()
        if not self._closed:
            self._filled.clear()
        return columns.message()

    def __repr__(self) -> str:
        return f"<OutputStream: {'closed' if self._closed else 'open'}, {'something' if self._columns else 'nothing'}>"
