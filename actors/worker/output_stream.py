"""Output for the streams of fronts, from the engine's thread to whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

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


class OutputStreams:
    """The open streams by id: front, life of the worker that its link is for, and number of the opening.

    A front's link has one stream at a time, that of the highest number: it ends those before it, and one that arrives
    after it was given up by its front before.
    """

    def __init__(self) -> None:
        self._streams: dict[str, OutputStream] = {}

    def open(self, stream_id: str) -> OutputStream | None:
        """None where a newer one of the link is open."""
        link_id, number = _parts(stream_id)
        for other_id, other in self._streams.items():
            other_link_id, other_number = _parts(other_id)
            if other_link_id == link_id and other_number > number:
                return None
            if other_link_id == link_id:
                other.close()
        stream = self._streams[stream_id] = OutputStream()
        return stream

    def forget(self, stream_id: str, stream: OutputStream) -> None:
        """Its reader is gone."""
        if self._streams.get(stream_id) is stream:
            del self._streams[stream_id]

    def put(self, outputs: Mapping[str, OutputColumns]) -> None:
        """What one turn made. Output for a stream that is gone is dropped, and its jobs are being cancelled."""
        for stream_id, columns in outputs.items():
            stream = self._streams.get(stream_id)
            if stream is not None:
                stream.put(columns)

    def close_all(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._streams

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"<OutputStreams: {', '.join(self._streams) or 'none'}>"


def _parts(stream_id: str) -> tuple[str, int]:
    """The link of a stream, which is a front and the life of a worker that it means, and the number of its opening."""
    link_id, _, number = stream_id.rpartition("/")
    return link_id, int(number)
