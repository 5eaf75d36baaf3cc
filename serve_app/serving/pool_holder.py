"""The holder of a pool that is served: it starts the pool's actors, which go when it goes.

It is an actor of its own, so that an application can be updated without loading its models again: the owner of the
new version takes its lease before the old one gives its own back. A lease is a stream, so it ends however its reader
ends; with the last one the holder closes the pool and itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import ExlpoolError, PoolClosed
from actors.launch import Launched, launch
from actors.supervisor import Supervisor
from serve_app.config import ModelConfig
from serve_app.edge.rate_book import RateBook, RateCall, Verdict

logger = logging.getLogger(__name__)

FIRST_LEASE_S = 60.0
"""A holder that nobody leases in this time was made for an owner that died at once."""
GRACE_S = 10.0
"""An owner that crashed is replaced in this time, and finds the pool as it was."""
BEAT_S = 1.0
CLOSE_S = 15.0
IDLE_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class HeldPool:
    """A pool's dispatcher, the Unix time when the pool was started, and what tells this life of it from the next."""

    dispatcher: Any
    created: int
    life: str


class PoolHolder:
    """A detached actor per model of an application. All methods run on its event loop."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._created = int(time.time())
        self._life = secrets.token_hex(4)
        self._leases = 0
        self._over = asyncio.Event()
        self._rates = RateBook()
        self._tasks = Supervisor(f"holder of {config.name}")
        self._launched: asyncio.Future[Launched] = asyncio.get_running_loop().create_future()
        self._tasks.start("launching", self._launch(), on_end=self._launching_ended)
        self._end_unless_leased(after_s=FIRST_LEASE_S)

    async def config(self) -> ModelConfig:
        return self._config

    async def pool(self) -> HeldPool:
        """:raises ExlpoolError: the pool could not be started, or ends."""
        if self._over.is_set():
            raise PoolClosed(f"The pool of {self._config.name} ends.")
        launched = await asyncio.shield(self._launched)
        return HeldPool(launched.dispatcher, self._created, self._life)

    async def lease(self) -> AsyncIterator[HeldPool | None]:
        """Keeps the pool until the stream is cancelled, or its reader is gone: only a stream that says something
        hears of that, so after the pool it says nothing, again and again."""
        self._leases += 1
        crashed = False
        try:
            yield await self.pool()
            while not self._over.is_set():
                yield None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await self._over.wait()
        except GeneratorExit:
            crashed = True  # the reader is gone; one that gives its lease back cancels the stream
            raise
        finally:
            self._leases -= 1
            if self._leases == 0 and crashed:
                self._end_unless_leased(after_s=GRACE_S)
            elif self._leases == 0:
                self._end()

    async def rates(self, calls: Sequence[RateCall]) -> list[Verdict | None]:
        """The book of the rates of an application's keys, kept by the holder of its first model: the one actor that
        every replica of the front finds and that outlives them. It is small, and begins anew with the holder."""
        return self._rates.answer(calls, time.monotonic())

    async def leases(self) -> int:
        """How many are held."""
        return self._leases

    async def over(self) -> None:
        """Returns, or fails, when this holder ends: for those who want to know."""
        await self._over.wait()

    async def retire(self, drain_s: float) -> None:
        """End now or as soon as nothing runs, whoever holds a lease: its successor waits for the place."""
        with contextlib.suppress(TimeoutError, ExlpoolError, RayError):  # what cannot be asked cannot be waited for
            async with asyncio.timeout(drain_s):
                await self._idle()
        self._end()

    async def _idle(self) -> None:
        dispatcher = (await self.pool()).dispatcher
        while True:
            scheduler = (await dispatcher.statistics.remote()).scheduler
            if not scheduler.running_requests and not sum(scheduler.queued_requests.values()):
                return
            await asyncio.sleep(IDLE_POLL_S)

    async def _launch(self) -> None:
        launched = await asyncio.to_thread(launch, self._config.pool(self._life))
        self._launched.set_result(launched)
        orders = launched.starter.follow_orders
        self._tasks.keep("starting workers on orders", lambda: orders(launched.dispatcher), pause_s=BEAT_S)

    def _launching_ended(self, failure: BaseException | None) -> None:
        """Whoever waits for the pool is told; the holder then ends with its last lease, or for want of a first."""
        if failure is not None:
            told = failure if isinstance(failure, Exception) else PoolClosed(f"The start was broken off: {failure!r}.")
            self._launched.set_exception(told)
            self._launched.exception()  # told, even if nobody waits

    def _end_unless_leased(self, *, after_s: float) -> None:
        def look() -> None:
            if self._leases == 0:
                self._end()

        asyncio.get_running_loop().call_later(after_s, look)

    def _end(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._tasks.start("closing", self._close(), on_end=self._exit)

    async def _close(self) -> None:
        await asyncio.wait({self._launched})
        if self._launched.exception() is not None:
            return  # what was begun of it goes with this process
        launched = self._launched.result()
        with contextlib.suppress(TimeoutError, RayError):  # killed next, whatever its state
            async with asyncio.timeout(CLOSE_S):
                await launched.dispatcher.close.remote()
        launched.kill()

    def _exit(self, failure: BaseException | None) -> None:
        """However the closing went: what the holder has started goes with its process."""
        if failure is not None:
            logger.error("The pool of %s could not be closed in good order", self._config.name, exc_info=failure)
        try:
            ray.kill(ray.get_runtime_context().current_actor)
        except Exception:
            logger.exception("The holder of %s cannot end as an actor should", self._config.name)
            os._exit(1)

    def __repr__(self) -> str:
        """Ray asks once, when the actor starts, and puts it before every line of its log: so no state that changes."""
        return f"PoolHolder({self._config.name}.{self._life})"
