"""Whether a pool can generate now, as its dispatcher tells it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

logger = logging.getLogger(__name__)

RECONNECT_INTERVAL_S = 0.2
ALL_STATES = -1


class Readiness:
    """Follows the state of a pool's workers. A dispatcher that does not answer counts as a pool that is not ready."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._ready = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    def start(self) -> None:
        self._follower = asyncio.create_task(self._follow())

    async def wait(self) -> None:
        await self._ready.wait()

    async def close(self) -> None:
        self._ready.clear()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self) -> None:
        version = ALL_STATES
        while True:
            try:
                version, states = await self._dispatcher.progress.remote(version)
            except ActorDiedError:
                logger.error("A pool's dispatcher is gone")
                self._ready.clear()
                return
            except (RayActorError, RayTaskError):
                self._ready.clear()
                version = ALL_STATES  # a dispatcher that restarts counts anew
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            else:
                if any(state.worker_id is not None for state in states):
                    self._ready.set()
                else:
                    self._ready.clear()
