"""The deltas of one completion, for a plain `for` or an `async for`."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt
from actors.results import Delta
from actors.script.fronts import ScriptFronts


class TextStream:
    """The deltas of one completion, for `for` or `async for`, once. Leaving the loop early cancels the request."""

    def __init__(self, fronts: ScriptFronts, prompt: Prompt, options: RequestOptions) -> None:
        self._fronts = fronts
        self._prompt = prompt
        self._options = options

    async def __aiter__(self) -> AsyncIterator[Delta]:
        front = await self._fronts.here()
        deltas = front.stream(self._prompt, self._options)
        try:
            async for delta in deltas:
                yield delta
        finally:
            await deltas.aclose()

    def __iter__(self) -> Iterator[Delta]:
        thread, front = self._fronts.threaded()
        deltas: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()
        pump = thread.submit(self._pump(front, deltas))
        # Whatever ends the pump ends the reader: also what keeps it from ever beginning, as the end of its loop.
        pump.add_done_callback(lambda _: deltas.put(PoolClosed("The pool was closed before the stream's end.")))
        try:
            while (item := deltas.get()) is not None:
                if isinstance(item, asyncio.CancelledError):
                    raise PoolClosed("The pool was closed before the stream's end.")
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            pump.cancel()

    async def _pump(self, front: Front, target: queue.SimpleQueue[Delta | BaseException | None]) -> None:
        """Runs on the background loop. The queue is bounded by the request's max_new_tokens."""
        end: BaseException | None = None
        stream = front.stream(self._prompt, self._options)
        try:
            async for delta in stream:
                target.put(delta)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - handed to the reader, who raises it
            end = error
        finally:
            await stream.aclose()
            target.put(end)
