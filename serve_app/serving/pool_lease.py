"""How a front finds the pool of a model, and how its owner holds on to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.engines.registry import resolve_engine_name
from actors.errors import PoolClosed
from actors.ray_session import NAMESPACE, cancel_stream, open_stream
from actors.supervisor import Supervisor
from serve_app.config import ModelConfig
from serve_app.serving.pool_holder import HeldPool, PoolHolder

logger = logging.getLogger("ray.serve.exlpool")

RETRY_S = 0.2


def holder_name(app_name: str, model_name: str) -> str:
    """The Ray name of the holder of a model's pool."""
    return f"pool holder of {model_name} in {app_name}"


async def find_holder(app_name: str, model_name: str) -> Any:
    """Wait for the holder of a model's pool, whatever the state of the pool."""
    while True:
        try:
            return await asyncio.to_thread(ray.get_actor, holder_name(app_name, model_name), namespace=NAMESPACE)
        except (ValueError, RayError):
            await asyncio.sleep(RETRY_S)


async def find_pool(app_name: str, model_name: str) -> tuple[Any, HeldPool]:
    """Wait for the pool of a model; returns its holder too."""
    while True:
        try:
            holder = await find_holder(app_name, model_name)
            pool: HeldPool = await holder.pool.remote()
        except RayError:
            await asyncio.sleep(RETRY_S)  # ending: its owner is about to start the next one
        else:
            return holder, pool


class Lease:
    """A hold on a pool. Take it with `Lease.take`; it ends with `release`, with this process, or with the pool."""

    def __init__(self, stream: Any, items: AsyncIterator[Any], pool: HeldPool) -> None:
        self.pool = pool
        self._stream = stream
        self.over = False
        """Whether it has ended."""
        self._tasks = Supervisor("lease")
        self._tasks.start("reading", self._read(items), on_end=self._ended)

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
            except PoolClosed:
                pass  # it was ending, or is ended now
            except RayTaskError:
                raise  # the holder's own failure
            except RayError:
                pass  # it is gone, or the link to it broke
            await asyncio.sleep(RETRY_S)

    @classmethod
    async def _of(cls, holder: Any) -> Lease:
        stream = open_stream(holder.lease)
        items = aiter(stream)
        try:
            pool: HeldPool = await (await anext(items))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
        return cls(stream, items, pool)

    def release(self) -> None:
        """Give it back. The reader goes on until it hears the end: a reader that went away would look like a crash,
        after which the pool stays for a while."""
        cancel_stream(self._stream)

    async def _read(self, items: AsyncIterator[Any]) -> None:
        async for beat in items:
            await beat

    def _ended(self, failure: BaseException | None) -> None:
        self.over = True
        logger.info("A lease ended: %r", failure)

    def __repr__(self) -> str:
        return f"<Lease of {self.pool.life}: {'over' if self.over else 'held'}>"
