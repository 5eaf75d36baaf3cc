"""An asyncio event loop on a thread of a script that has none of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from actors.errors import PoolClosed

T = TypeVar("T")
CLOSE_TIMEOUT_S = 10.0


class LoopThread:
    """An asyncio event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closing = False
        self._abandoned = False
        """Nobody who could close it is left."""
        self._futures: set[Future[Any]] = set()
        """Those that somebody may wait for."""
        self._thread = threading.Thread(target=self._run, name="exlpool-front", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it on the loop. The caller hears of its end by the future.

        :raises PoolClosed: the loop is being closed, so it would never run.
        """
        with self._lock:
            if self._closing:
                coroutine.close()
                raise PoolClosed("The pool is closed.")
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
            self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def end_with(self, owner: object) -> None:
        """Have everything on the loop cancelled, and the thread end, when nothing refers to `owner` any more, which was
        not closed then. It must not be referred to from the loop."""
        weakref.finalize(owner, self._end).atexit = False

    def _end(self) -> None:
        """Called wherever the collector runs, in the middle of anything: so it takes no lock and waits for nothing."""
        if not self.loop.is_closed():
            self._abandoned = True
            with suppress(RuntimeError):  # it was closed just now
                self.loop.call_soon_threadsafe(self._cancel_all_and_stop)

    def _cancel_all_and_stop(self) -> None:
        """On the thread."""
        tasks = asyncio.all_tasks()
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: self.loop.stop())

    def _run(self) -> None:
        """On the thread. However the loop ends, whoever waits for something on it hears of that."""
        try:
            self.loop.run_forever()
        finally:
            with self._lock:
                self._closing = True
            for future in tuple(self._futures):
                if not future.done():
                    future.set_exception(PoolClosed("The event loop behind this pool has ended."))
            if self._abandoned:
                self.loop.close()

    def close(self) -> None:
        """Cancel what still runs and end the thread.

        :raises TimeoutError: something on the loop does not end.
        """
        with self._lock:  # what was submitted before is cancelled; nothing more comes
            self._closing = True
        try:
            asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result(CLOSE_TIMEOUT_S)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(CLOSE_TIMEOUT_S)
            if not self._thread.is_alive():
                self.loop.close()

    def __repr__(self) -> str:
        return f"<LoopThread: {'running' if self._thread.is_alive() else 'ended'}>"


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
