"""A front inside the script's own process: an event loop on a background thread, and streams that a plain `for` or an
`async for` reads."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt
from actors.results import Delta, GenerationResult

T = TypeVar("T")
CLOSE_TIMEOUT_S = 10.0


class LoopThread:
    """An asyncio event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="exlpool-front", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result(CLOSE_TIMEOUT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self.loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class LocalFronts:
    """The patient fronts of this process: one on a background thread for plain code, one on each event loop that
    streams by `async for`, so that no delta changes threads. Opened at first use, since many scripts never stream."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._thread: LoopThread | None = None
        self._front: Front | None = None
        self._by_loop: dict[asyncio.AbstractEventLoop, asyncio.Task[Front]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def threaded(self) -> tuple[LoopThread, Front]:
        with self._lock:
            self._require_open()
            if self._thread is None or self._front is None:
                self._thread = LoopThread()
                self._front = self._thread.submit(Front.open(self._dispatcher, patient=True)).result()
            return self._thread, self._front

    async def here(self) -> Front:
        """The front of the running event loop."""
        self._require_open()
        loop = asyncio.get_running_loop()
        opening = self._by_loop.get(loop)
        if opening is None:
            opening = self._by_loop[loop] = asyncio.create_task(Front.open(self._dispatcher, patient=True))
        return await asyncio.shield(opening)

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosed("The pool is closed.")

    def generate(self, prompt: Prompt, options: RequestOptions) -> Future[GenerationResult]:
        thread, front = self.threaded()
        return thread.submit(front.generate(prompt, options))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for loop, opening in self._by_loop.items():
                if loop.is_running():
                    loop.call_soon_threadsafe(_shut_down, opening)
            self._by_loop.clear()
            if self._thread is not None:
                if self._front is not None:
                    self._thread.submit(self._front.close()).result(CLOSE_TIMEOUT_S)
                self._thread.close()
            self._thread, self._front = None, None


def _shut_down(opening: asyncio.Task[Front]) -> None:
    if not opening.done():
        opening.cancel()
    elif not opening.cancelled() and opening.exception() is None:
        opening.result().shut_down()


class TextStream:
    """The deltas of one completion, for `for` or `async for`, once. Leaving the loop early cancels the request."""

    def __init__(self, fronts: LocalFronts, prompt: Prompt, options: RequestOptions) -> None:
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
