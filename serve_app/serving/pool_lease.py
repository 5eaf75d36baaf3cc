"""How the holder of a pool is found or made, and a lease on the pool."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.cluster_room import PLACED, on_head
from actors.ray_session import NAMESPACE, cancel_stream, open_stream
from serve_app.config import ModelConfig
from serve_app.serving.pool_holder import HeldPool, Notice, PoolHolder
from serve_app.serving.pool_names import holder_name, pool_key

RETRY_S = 0.2


def ensure_holder(app_name: str, config: ModelConfig) -> Any:
    """The holder of the pool with this configuration, which is made if there is none, on the head if that is there."""
    return (
        ray.remote(PoolHolder)
        .options(
            name=holder_name(app_name, config),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            **PLACED,
            max_restarts=-1,
            scheduling_strategy=on_head(),
        )
        .remote(config, pool_key(app_name, config), int(time.time()))
    )


async def get_holder(name: str) -> Any:
    """A holder by its Ray name.

    :raises ValueError: there is none.
    """
    return await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)


async def until_gone(name: str) -> None:
    """Wait until there is no holder of this name."""
    with contextlib.suppress(ValueError):
        while True:
            await get_holder(name)
            await asyncio.sleep(RETRY_S)


class Lease:
    """A hold on a pool: it ends with `release`, with this process, or with the pool."""

    def __init__(self, holder: Any, lease_id: str, stream: Any, items: AsyncIterator[Any], pool: HeldPool) -> None:
        self.holder = holder
        self.pool = pool
        self._id = lease_id
        self._stream = stream
        self._items = items

    @classmethod
    async def open(cls, holder: Any, *, front: str | None = None, recalls: bool = False) -> Lease:
        """`front` and `recalls` are as in `PoolHolder.lease`.

        :raises ExlpoolError: the pool cannot be started, or ends.
        :raises RayError: the holder is not there.
        """
        lease_id = secrets.token_hex(6)
        stream = open_stream(holder.lease, lease_id, front, recalls)
        items = aiter(stream)
        try:
            pool: HeldPool = await (await anext(items))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
        except BaseException:
            cancel_stream(stream)
            raise
        return cls(holder, lease_id, stream, items, pool)

    async def notice(self) -> Notice | None:
        """Wait for what the holder says next; None: the pool is over.

        :raises RayError: the holder is not heard any more, which says nothing of the pool.
        """
        async for item in self._items:
            told: Notice | None = await item
            if told is not None:
                return told
        return None

    async def leave(self) -> None:
        """Say that this front sends the pool no more requests and has none there, unless its retirement is called off.

        :raises RayError: the holder is not heard any more.
        """
        await self.holder.leave.remote(self._id)

    def release(self) -> None:
        cancel_stream(self._stream)

    def __repr__(self) -> str:
        return f"<Lease of {self.pool.life}>"
