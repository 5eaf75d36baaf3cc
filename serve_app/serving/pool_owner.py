"""Who owns the pool of a model, and how a front finds it.

Of every model Serve runs one `PoolOwner`. It holds a lease on the model's `PoolHolder` for as long as it lives, so a
pool stays while its application is there, and goes with it. An update that leaves a model's settings alone leaves its
pool alone; one that changes them lets the old pool end its requests first, since the new one may need its GPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError

from actors.dispatcher.statistics import WorkerState
from actors.engines.registry import resolve_engine_name
from actors.errors import ConfigurationError, NoHealthyWorker, PoolClosed
from actors.ray_session import NAMESPACE, STREAM_BACKPRESSURE
from serve_app.config import ModelConfig
from serve_app.serving.pool_holder import HeldPool, PoolHolder

logger = logging.getLogger("ray.serve.exlpool")

RETRY_S = 0.2
ANY_VERSION = -1


def holder_name(app_name: str, model_name: str) -> str:
    """The Ray name of the holder of a model's pool."""
    return f"pool holder of {model_name} in {app_name}"


async def find_pool(app_name: str, model_name: str) -> tuple[Any, HeldPool]:
    """Wait for the pool of a model; returns its holder too."""
    while True:
        try:
            holder = await asyncio.to_thread(ray.get_actor, holder_name(app_name, model_name), namespace=NAMESPACE)
            pool: HeldPool = await holder.pool.remote()
        except (ValueError, RayActorError, RayTaskError):
            await asyncio.sleep(RETRY_S)  # not there yet, or ending: its owner is about to start the next one
        else:
            return holder, pool


class Lease:
    """A hold on a pool. Take it with `Lease.take`; it ends with `release`, with this process, or with the pool."""

    def __init__(self, stream: Any, items: AsyncIterator[Any], pool: HeldPool) -> None:
        self.pool = pool
        self._stream = stream
        self._end = asyncio.ensure_future(_exhaust(items))

    @property
    def over(self) -> bool:
        return self._end.done()

    @classmethod
    async def take(cls, app_name: str, config: ModelConfig, *, drain_s: float) -> Lease:
        """Lease the pool with this configuration, and start it if there is none.

        :raises ExlpoolError: it cannot be started.
        """
        while True:
            holder: Any = (
                ray.remote(PoolHolder)
                .options(
                    name=holder_name(app_name, config.name),
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                )
                .remote(config)
            )
            try:
                if await holder.config.remote() == config:
                    return await cls._of(holder)
                resolve_engine_name(config)  # before the old pool is given up
                logger.info("The settings of %s changed: its old pool ends", config.name)
                await holder.retire.remote(drain_s)
                await holder.over.remote()
            except (RayActorError, PoolClosed):
                pass  # it was ending, or is ended now
            await asyncio.sleep(RETRY_S)

    @classmethod
    async def _of(cls, holder: Any) -> Lease:
        stream = holder.lease.options(
            num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE
        ).remote()
        items = aiter(stream)
        try:
            pool: HeldPool = await (await anext(items))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
        return cls(stream, items, pool)

    def release(self) -> None:
        ray.cancel(self._stream)


async def _exhaust(items: AsyncIterator[Any]) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        async for beat in items:
            await beat


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
        _, states = await self._states(ANY_VERSION)
        if all(state.failure is not None for state in states):
            raise NoHealthyWorker(f"All workers of {self._config.name} are lost: {states[0].failure}")

    async def __del__(self) -> None:
        if hasattr(self, "_lease"):
            self._lease.release()

    async def _all_ready(self) -> None:
        version = ANY_VERSION
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                while True:
                    version, states = await self._states(version)
                    for state in states:
                        if state.failure is not None:
                            raise state.failure
                    if all(state.worker_id is not None for state in states):
                        return
        except TimeoutError:
            raise ConfigurationError(
                f"The workers of {self._config.name} were not ready within {self._config.start_timeout_s:g} s.",
                param="start_timeout_s",
            ) from None

    async def _states(self, known: int) -> tuple[int, tuple[WorkerState, ...]]:
        answer: tuple[int, tuple[WorkerState, ...]] = await self._lease.pool.dispatcher.progress.remote(known)
        return answer
