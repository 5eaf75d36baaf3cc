"""An owner's hold on the pool with its settings, through every life of that pool and of its holder."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ray.exceptions import RayError, RayTaskError

from actors.errors import ExlpoolError, PoolClosed, first_line
from actors.supervisor import Supervisor
from serve_app.config import ModelConfig
from serve_app.serving.pool_holder import HeldPool, Recalled, Retirement
from serve_app.serving.pool_lease import RETRY_S, Lease, ensure_holder, until_gone

logger = logging.getLogger("ray.serve.exlpool")

FAILED_RETRY_S = 5.0


class OwnedPool:
    """Take it with `take`. A pool that is lost is started anew. One that gave way to a successor stays away for as long
    as that is there: if the successor cannot be started either, the pool comes back."""

    def __init__(self, app_name: str, config: ModelConfig, lease: Lease) -> None:
        self._app_name, self._config = app_name, config
        self._lease: Lease | None = lease
        self._successor: str | None = None
        self.failure: Exception | None = None
        """Why there is no pool now, if that is known."""
        self._tasks = Supervisor(f"owner of {config.name}")
        self._tasks.keep("holding", self._hold, pause_s=RETRY_S)

    @classmethod
    async def take(cls, app_name: str, config: ModelConfig) -> OwnedPool:
        """Hold the pool with this configuration, which is started if there is none.

        :raises ExlpoolError: it cannot be started.
        """
        return cls(app_name, config, await _lease(app_name, config, recalls=True))

    @property
    def pool(self) -> HeldPool | None:
        return None if self._lease is None else self._lease.pool

    async def prove(self) -> None:
        """Tell the holder that the pool works."""
        if self._lease is not None:
            with contextlib.suppress(RayError):  # it is started again, and finds a pool that runs
                await self._lease.holder.prove.remote()

    async def end(self) -> None:
        """End the pool, since it is of no use; another one is started."""
        if self._lease is not None:
            with contextlib.suppress(RayError):
                await self._lease.holder.end.remote()

    async def give_up(self) -> None:
        """Release and end a pool that cannot be started."""
        self.release()
        await self.end()

    def release(self) -> None:
        self._tasks.shut_down()
        if self._lease is not None:
            self._lease.release()

    async def _hold(self) -> None:
        """For ever."""
        while True:
            lease = self._lease
            if lease is not None:
                self._successor = None
                with contextlib.suppress(RayError):  # not heard any more: the pool is there, or found to be gone
                    while (notice := await lease.notice()) is not None:
                        self._successor = notice.successor if isinstance(notice, Retirement) else None
                        assert isinstance(notice, Retirement | Recalled)
            await self._take_again()

    async def _take_again(self) -> None:
        if self._successor is not None:
            self._lease = None
            await until_gone(self._successor)
            self._successor = None
        try:
            self._lease, self.failure = await _lease(self._app_name, self._config, recalls=False), None
        except (ExlpoolError, RayTaskError) as error:
            logger.error("The pool of %s cannot be started: %s", self._config.name, first_line(error))
            self._lease, self.failure = None, error
            await asyncio.sleep(FAILED_RETRY_S)

    def __repr__(self) -> str:
        return f"<OwnedPool {self._config.name}: {self._lease!r}>"


async def _lease(app_name: str, config: ModelConfig, *, recalls: bool) -> Lease:
    """:raises ExlpoolError: the pool cannot be started."""
    while True:
        try:
            holder = await asyncio.to_thread(ensure_holder, app_name, config)
            return await Lease.open(holder, recalls=recalls)
        except RayTaskError:
            raise  # the holder's own failure
        except RayError:
            pass  # it ends, or is started again, or the link to it broke
        except PoolClosed:
            pass  # it ends
        await asyncio.sleep(RETRY_S)
