"""The holder of a pool that is served: it starts the pool's actors, which go when it goes.

It is an actor of its own, so that an application can be updated without loading its models again: the owner of the
new version takes its lease before the old one gives its own back. A lease is a stream, so it ends however its holder
ends; with the last one the holder closes the pool and itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.errors import PoolClosed
from actors.launch import Launched, launch
from serve_app.config import ModelConfig

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
    """A pool's dispatcher, and the Unix time when the pool was started."""

    dispatcher: Any
    created: int


class PoolHolder:
    """A detached actor per model of an application. All methods run on its event loop."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._created = int(time.time())
        self._leases = 0
        self._over = asyncio.Event()
        self._launching = asyncio.create_task(asyncio.to_thread(launch, config.pool(secrets.token_hex(4))))
        self._waiting = asyncio.create_task(self._end_without_lease(FIRST_LEASE_S))
        self._ending: asyncio.Task[None] | None = None

    async def config(self) -> ModelConfig:
        return self._config

    async def pool(self) -> HeldPool:
        """:raises ExlpoolError: the pool could not be started, or ends."""
        if self._over.is_set():
            raise PoolClosed(f"The pool of {self._config.name} ends.")
        launched = await asyncio.shield(self._launching)
        return HeldPool(launched.dispatcher, self._created)

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
                    await asyncio.wait_for(self._over.wait(), BEAT_S)
        except GeneratorExit:
            crashed = True  # the reader is gone; one that gives its lease back cancels the stream
            raise
        finally:
            self._leases -= 1
            if self._leases == 0 and crashed:
                self._waiting = asyncio.create_task(self._end_without_lease(GRACE_S))
            elif self._leases == 0:
                self._end()

    async def leases(self) -> int:
        """How many are held."""
        return self._leases

    async def over(self) -> None:
        """Returns, or fails, when this holder ends: for those who want to know."""
        await self._over.wait()

    async def retire(self, drain_s: float) -> None:
        """End now or as soon as nothing runs, whoever holds a lease: its successor waits for the place."""
        with contextlib.suppress(TimeoutError):
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

    async def _end_without_lease(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self._leases == 0:
            self._end()

    def _end(self) -> None:
        if self._ending is None:
            self._over.set()
            self._ending = asyncio.create_task(self._close())

    async def _close(self) -> None:
        try:
            launched: Launched = await self._launching
            with contextlib.suppress(TimeoutError, RayActorError, RayTaskError):  # killed next, whatever its state
                await asyncio.wait_for(launched.dispatcher.close.remote(), CLOSE_S)
            launched.kill()
        except Exception:
            logger.exception("The pool of %s could not be closed in good order", self._config.name)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)
