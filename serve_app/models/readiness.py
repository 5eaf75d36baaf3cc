"""Whether a pool can generate now, as its dispatcher tells it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import ActorDiedError, RayError

from actors.ray_session import is_gone
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

RECONNECT_INTERVAL_S = 0.2
ALL_STATES = -1


class Readiness:
    """Follows the state of a pool's workers. While it cannot follow, for whatever reason, the pool is not ready."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self.ready = False
        self._tasks = Supervisor("readiness")

    def start(self) -> None:
        self._tasks.keep("following the workers", self._follow, pause_s=RECONNECT_INTERVAL_S)

    async def close(self) -> None:
        self._tasks.shut_down()
        await self._tasks.wait_closed()

    async def _follow(self) -> None:
        """Returns when the dispatcher is gone for good."""
        version = ALL_STATES
        try:
            while True:
                try:
                    version, states = await self._dispatcher.progress.remote(version)
                except RayError as error:
                    self.ready = False
                    if isinstance(error, ActorDiedError) and await is_gone(self._dispatcher):
                        logger.error("A pool's dispatcher is gone")
                        return
                    version = ALL_STATES  # a dispatcher that restarts counts anew
                    await asyncio.sleep(RECONNECT_INTERVAL_S)
                else:
                    self.ready = any(state.worker_id is not None for state in states)
        finally:
            self.ready = False

    def __repr__(self) -> str:
        return f"<Readiness: {'ready' if self.ready else 'not ready'}, {self._tasks!r}>"
