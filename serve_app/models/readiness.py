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
        self.ready = False
        self._follower: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        self.ready = False
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
                self.ready = False
                return
            except (RayActorError, RayTaskError):
                self.ready = False
                version = ALL_STATES  # a dispatcher that restarts counts anew
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            else:
                self.ready = any(state.worker_id is not None for state in states)
