"""Who owns the pool of a model.

Of every model Serve runs one `PoolOwner`, which holds on to the pool for as long as it lives. So a pool stays while its
application is there, and goes with it. An update that leaves a model's settings alone leaves its pool alone; one that
changes them starts the new pool beside the old one where there is room, and otherwise lets the old one end its requests
first, since the new one needs its GPUs.
"""

import asyncio
import logging
import math
import time

from ray import serve
from ray.exceptions import ActorDiedError, RayError

from actors.dispatcher.statistics import WorkerState
from actors.errors import ConfigurationError, NoHealthyWorker, first_line
from actors.ray_session import is_gone
from serve_app.config import ModelConfig
from serve_app.serving.owned_pool import OwnedPool
from serve_app.serving.pool_holder import HeldPool
from serve_app.serving.room import has_room, is_there, make_room

logger = logging.getLogger("ray.serve.exlpool")

ANY_VERSION = -1
RETRY_S = 0.2
ANSWER_S = 5.0
STARVED_S = 20.0
"""Workers that have not begun to load after this time, while nothing is free on the cluster, wait for room."""


class PoolOwner:
    """The deployment that owns a model's pool: it is healthy when the pool can generate, or will again."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, config: ModelConfig, drain_s: float, models: tuple[ModelConfig, ...] = ()
    ) -> None:
        """`models` are all those of this version of the application. Returns when the first worker can generate, or
        (`wait_for`) all can.

        :raises ExlpoolError: the pool could not be started.
        """
        self._app_name: str = serve.get_replica_context().app_name
        self._config, self._drain_s, self._models = config, drain_s, models or (config,)
        self._proven: str | None = None
        """The life of the pool that was seen to work."""
        self._waiting = ""
        """What a worker waits for while there is no node for it."""
        self._began = False
        """Nothing of the pool worked yet when this owner came, so that it takes nothing away by ending it."""
        begins = not await is_there(self._app_name, config)
        roomy = not begins or await asyncio.to_thread(has_room, config, config.workers)
        self._owned = await OwnedPool.take(self._app_name, config)
        try:
            if not roomy:
                await self._make_room()
            await self._ready()
            await self._owned.prove()
        except Exception:
            if self._began:
                await self._owned.give_up()
            raise
        finally:
            if self._proven is None:
                self._owned.release()

    async def check_health(self) -> None:
        """Called by Serve, which replaces an owner that raises again and again.

        Of what does not answer now nobody knows yet: a dispatcher restarts in a moment, and running requests go on
        without it.
        """
        pool = self._owned.pool
        if pool is None:
            if self._owned.failure is not None:
                raise NoHealthyWorker(f"The pool of {self._config.name} is gone: {self._owned.failure}")
            return  # it gives way to its successor
        try:
            async with asyncio.timeout(ANSWER_S):
                _, states = await self._states(pool, ANY_VERSION)
        except (RayError, TimeoutError) as error:
            logger.warning("The dispatcher of %s does not answer: %s", self._config.name, first_line(error))
            if isinstance(error, ActorDiedError) and await is_gone(pool.dispatcher):
                await self._owned.end()
                raise NoHealthyWorker(f"The dispatcher of {self._config.name} is gone.") from None
            return
        if any(state.worker_id is not None for state in states):
            self._proven = pool.life
        if states and all(state.failure is not None for state in states):
            if self._proven == pool.life:
                await self._owned.end()
            raise NoHealthyWorker(f"All workers of {self._config.name} are lost: {states[0].failure}")

    async def __del__(self) -> None:
        if hasattr(self, "_owned"):
            self._owned.release()

    async def _make_room(self) -> None:
        await make_room(self._app_name, self._config, self._models, self._drain_s)

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(self._config.start_timeout_s) as limit:
                await self._until_ready(limit)
        except TimeoutError:
            told = f"The workers of {self._config.name} were not ready within {self._config.start_timeout_s:g} s"
            why = f": {self._waiting}" if self._waiting else ""
            raise ConfigurationError(f"{told}{why}.", param="start_timeout_s") from None

    async def _until_ready(self, limit: asyncio.Timeout) -> None:
        version, starved_at_s = ANY_VERSION, time.monotonic() + STARVED_S
        while True:
            pool = self._owned.pool
            if pool is None:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with asyncio.timeout(ANSWER_S):
                    version, states = await self._states(pool, version)
            except (RayError, TimeoutError) as error:
                if isinstance(error, ActorDiedError) and await is_gone(pool.dispatcher):
                    raise
                version = ANY_VERSION  # a dispatcher that restarts counts anew
                if isinstance(error, RayError):
                    await asyncio.sleep(RETRY_S)
                continue
            self._began = self._began or not any(state.worker_id is not None for state in states)
            self._waiting = next((f"{state.slot_name} {state.waiting}" for state in states if state.waiting), "")
            enough = any if self._config.wait_for == "first" else all
            if states and enough(state.worker_id is not None for state in states):
                self._proven = pool.life
                return
            for state in states:
                if state.failure is not None:
                    raise state.failure
            if time.monotonic() > starved_at_s and await self._starves(states):
                starved_at_s = math.inf  # once is enough
                limit.reschedule(None)
                await self._make_room()
                limit.reschedule(asyncio.get_running_loop().time() + self._config.start_timeout_s)

    async def _starves(self, states: tuple[WorkerState, ...]) -> bool:
        waiting = any(state.worker_id is None and state.loading is None for state in states)
        return waiting and not await asyncio.to_thread(has_room, self._config, 1)

    async def _states(self, pool: HeldPool, known: int) -> tuple[int, tuple[WorkerState, ...]]:
        answer: tuple[int, tuple[WorkerState, ...]] = await pool.dispatcher.progress.remote(known)
        return answer

    def __repr__(self) -> str:
        return f"<PoolOwner of {self._config.name}: {getattr(self, '_owned', 'nothing')!r}>"
