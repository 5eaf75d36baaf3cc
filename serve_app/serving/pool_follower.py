"""How a front keeps a model on its pool, and goes over to the next one when the pool gives way to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError

from actors.errors import ExlpoolError
from actors.supervisor import Supervisor
from serve_app.config import ModelConfig
from serve_app.models.served import Models, ServedModel
from serve_app.serving.pool_holder import HeldPool, Notice, Retirement
from serve_app.serving.pool_lease import RETRY_S, Lease, get_holder
from serve_app.serving.pool_names import holder_name

logger = logging.getLogger("ray.serve.exlpool")

IDLE_POLL_S = 0.1
IDLE_POLLS = 3
"""A request that goes from one worker to another has no place for a moment."""


class PoolFollower:
    """Of one model of one front. `find` its pool first; `follow` it for ever then, and `release` it at the end.

    A pool that retires gets no more requests from here: they wait for its successor. When none is under way any more
    the front says so, and the pool may end.
    """

    def __init__(self, app_name: str, config: ModelConfig, front: str, *, hold_s: float) -> None:
        """`front` is what the holder is told of it; `hold_s` the time that a request may wait for the next pool."""
        self._config, self._front, self._hold_s = config, front, hold_s
        self._own_name = holder_name(app_name, config)
        self._lease: Lease | None = None
        self._successor: str | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._tasks = Supervisor(f"follower of the pool of {config.name}")

    @property
    def pool(self) -> HeldPool:
        return self._held.pool

    @property
    def holder(self) -> Any:
        """The actor that holds the pool now."""
        return self._held.holder

    @property
    def _held(self) -> Lease:
        assert self._lease is not None, "the pool was not found yet"
        return self._lease

    async def find(self) -> ServedModel:
        """Wait for the pool; its owner starts it."""
        self._lease = await self._find_next()
        return self._served()

    def follow(self, models: Models, on_next: Callable[[], None]) -> None:
        """Serve the model in `models` from whichever pool is its own. `on_next` is called when it is another one."""

        async def for_ever() -> None:
            while True:
                await self._until_over(models)
                await self._go_on(models, await self._find_next(), on_next)

        self._tasks.keep("following", for_ever, pause_s=RETRY_S)

    def release(self) -> None:
        self._tasks.shut_down()
        if self._lease is not None:
            self._lease.release()

    async def _until_over(self, models: Models) -> None:
        """Returns when the pool is over, or its holder is not heard any more, which says nothing of the pool."""
        lease = self._held
        try:
            while (notice := await lease.notice()) is not None:
                self._take_notice(models, lease, notice)
        except RayError as error:
            logger.info("The holder of %s is not heard: %r", self._config.name, error)

    def _take_notice(self, models: Models, lease: Lease, notice: Notice) -> None:
        self._stay()
        gate = models.gate(self._config.name)
        if not isinstance(notice, Retirement):
            logger.info("The pool of %s goes on", self._config.name)
            gate.open()
            return
        logger.info("The pool of %s gives way to another one", self._config.name)
        self._successor = notice.successor
        if notice.successor is None:
            gate.refuse()
        else:
            gate.hold(self._hold_s)
        self._leaving = self._tasks.start("leaving", self._leave_when_idle(models, lease), on_end=self._left)

    async def _leave_when_idle(self, models: Models, lease: Lease) -> None:
        name, idle = self._config.name, 0
        while idle < IDLE_POLLS:
            busy = models.gate(name).inside or models.get(name).under_way
            idle = 0 if busy else idle + 1
            await asyncio.sleep(IDLE_POLL_S)
        await lease.leave()

    def _left(self, failure: BaseException | None) -> None:
        if failure is not None and not isinstance(failure, asyncio.CancelledError):
            logger.info("The holder of %s was not told that it may end: %r", self._config.name, failure)

    def _stay(self) -> None:
        self._successor = None
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    async def _find_next(self) -> Lease:
        """Wait for the pool to serve from: the successor's, or its own where there is no successor."""
        while True:
            for name in (self._successor, self._own_name):
                if name is None:
                    continue
                try:
                    return await Lease.open(await get_holder(name), front=self._front)
                except ValueError:
                    continue  # there is no such holder
                except (RayError, ExlpoolError):
                    break  # it begins, or ends
            await asyncio.sleep(RETRY_S)

    async def _go_on(self, models: Models, lease: Lease, on_next: Callable[[], None]) -> None:
        before, self._lease = self._held.pool.life, lease
        self._stay()
        gate = models.gate(self._config.name)
        if lease.pool.life == before:
            gate.open()
            return
        logger.warning("The pool of %s is another one now", self._config.name)
        on_next()
        served = self._served()
        served.start()
        previous = models.replace(served)
        self._tasks.start("opening", self._open_gate(models, served), on_end=self._opened)
        await previous.close()

    async def _open_gate(self, models: Models, served: ServedModel) -> None:
        """Let the requests that wait go on when the next pool is ready."""
        name = self._config.name
        while not served.ready and models.get(name) is served:  # noqa: ASYNC110 - who is ready is asked, not told
            await asyncio.sleep(IDLE_POLL_S)
        if models.get(name) is served and self._leaving is None:
            models.gate(name).open()

    def _opened(self, failure: BaseException | None) -> None:
        if failure is not None:
            logger.error("Requests for %s may wait in vain", self._config.name, exc_info=failure)

    def _served(self) -> ServedModel:
        pool, config = self.pool, self._config
        return ServedModel(config.name, pool.dispatcher, created=pool.created, default_priority=config.default_priority)

    def __repr__(self) -> str:
        return f"<PoolFollower of {self._config.name}: {self._lease!r}>"
