"""Who owns the pool of a model.

Of every model Serve runs one `PoolOwner`. It holds a lease on the model's `PoolHolder` for as long as it lives, so a
pool stays while its application is there, and goes with it. An update that leaves a model's settings alone leaves its
pool alone; one that changes them lets the old pool end its requests first, since the new one may need its GPUs.
"""

import asyncio
import logging

from ray import serve
from ray.exceptions import ActorDiedError, RayError

from actors.dispatcher.statistics import WorkerState
from actors.errors import ConfigurationError, NoHealthyWorker, first_line
from serve_app.config import ModelConfig
from serve_app.serving.pool_lease import Lease

logger = logging.getLogger("ray.serve.exlpool")

ANY_VERSION = -1
RETRY_S = 0.2


class PoolOwner:
    """The deployment that owns a model's pool: it is healthy when the pool can generate, or will again."""

    async def __init__(self, config: ModelConfig, drain_s: float) -> None:  # type: ignore[misc] # Serve awaits it
        """Returns when all workers are ready.

        :raises ExlpoolError: the pool could not be started.
        """
        self._config = config
        self._lease = await Lease.take(serve.get_replica_context().app_name, config, drain_s=drain_s)
        try:
            await self._all_ready()
        except BaseException:
            self._lease.release()
            raise

    async def check_health(self) -> None:
        """Called by Serve, which replaces an owner that raises."""
        if self._lease.over:
            raise NoHealthyWorker(f"The pool of {self._config.name} is gone.")
        try:
            _, states = await self._states(ANY_VERSION)
        except ActorDiedError:
            raise NoHealthyWorker(f"The dispatcher of {self._config.name} is gone.") from None
        except RayError as error:  # a restart takes a moment, and running requests go on without a dispatcher
            logger.warning("The dispatcher of %s does not answer: %s", self._config.name, first_line(error))
            return
        if states and all(state.failure is not None for state in states):
            raise NoHealthyWorker(f"All workers of {self._config.name} are lost: {states[0].failure}")

    async def __del__(self) -> None:
        if hasattr(self, "_lease"):
            self._lease.release()

    async def _all_ready(self) -> None:
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                await self._until_all_ready()
        except TimeoutError:
            raise ConfigurationError(
                f"The workers of {self._config.name} were not ready within {self._config.start_timeout_s:g} s.",
                param="start_timeout_s",
            ) from None

    async def _until_all_ready(self) -> None:
        version = ANY_VERSION
        while True:
            try:
                version, states = await self._states(version)
            except ActorDiedError:
                raise
            except RayError:
                version = ANY_VERSION  # a dispatcher that restarts counts anew
                await asyncio.sleep(RETRY_S)
                continue
            for state in states:
                if state.failure is not None:
                    raise state.failure
            if all(state.worker_id is not None for state in states):
                return

    async def _states(self, known: int) -> tuple[int, tuple[WorkerState, ...]]:
        answer: tuple[int, tuple[WorkerState, ...]] = await self._lease.pool.dispatcher.progress.remote(known)
        return answer

    def __repr__(self) -> str:
        return f"<PoolOwner of {self._config.name}: {getattr(self, '_lease', 'no lease')!r}>"
