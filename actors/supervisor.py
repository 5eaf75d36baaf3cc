"""The one supervisor of background tasks: somebody hears of every end, however it comes.

A task that nobody awaits ends in silence: asyncio keeps its exception until the task is collected, and whoever waits
for what it should have done waits for ever. So no component starts a task by itself. It gives its work to its
supervisor together with what has to be done when the work ends: reopen a link, fail what hung on it, or end the
process so that Ray starts a clean one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

logger = logging.getLogger(__name__)

EndCallback = Callable[[BaseException | None], None]
"""Hears how a task ended: None, or what it failed with; `CancelledError` where somebody else cancelled it."""


class Supervisor:
    """The background tasks of one component, on one event loop."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, name: str, work: Coroutine[Any, Any, None], *, on_end: EndCallback) -> asyncio.Task[None]:
        """Run `work`; `on_end` is called exactly once when it is over, unless that is because of `shut_down`.

        The task starts in an empty context. Ray cancels with a call all calls that were made under it, and finds
        those by the context of their task; what runs in the background was begun by one request and serves all.

        :raises RuntimeError: the supervisor is shut down.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._owner} is shut down and starts nothing more")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, on_end))
        return task

    def keep(self, name: str, make: Callable[[], Coroutine[Any, Any, None]], *, pause_s: float) -> None:
        """Run `make()`, and again `pause_s` after every failure, which is logged. An end without one is the end."""

        async def again() -> None:
            while True:
                try:
                    await make()
                except Exception:
                    logger.exception("%s: %s failed and starts again in %g s", self._owner, name, pause_s)
                    await asyncio.sleep(pause_s)
                else:
                    return

        self.start(name, again(), on_end=self._kept_ended)

    def shut_down(self) -> None:
        """Cancel everything without waiting. Nobody is told of these ends, since the owner asked for them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until every task is over, after `shut_down`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], on_end: EndCallback) -> None:
        self._tasks.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._closed:
            if failure is not None and not isinstance(failure, asyncio.CancelledError):
                logger.warning("%s failed while it was shut down: %r", task.get_name(), failure)
            return
        on_end(failure)

    def _kept_ended(self, failure: BaseException | None) -> None:
        if failure is not None:  # whoever cancels it, or raises what is no Exception, ends the whole loop
            logger.error("%s: a task that should go on was ended: %r", self._owner, failure)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        names = sorted(task.get_name().partition(": ")[2] for task in self._tasks)
        state = "shut down" if self._closed else "running"
        return f"<Supervisor of {self._owner}: {state}, tasks: {', '.join(names) or 'none'}>"


def end_process(what: str) -> EndCallback:
    """For work without which a process is of no use: when it ends, whatever the reason, so does the process.

    An actor's callers then get an error at once, and Ray starts a clean process where the actor may be restarted.
    """

    def on_end(failure: BaseException | None) -> None:
        logger.critical("%s ended, and this process with it: %r", what, failure, exc_info=failure)
        logging.shutdown()
        os._exit(1)

    return on_end
