"""The holder of a pool that is served: it starts the pool's actors, and ends them when nobody needs them any more.

It is an actor of its own, so that an application can be updated without loading its models again. Whoever needs the
pool holds a lease: the owner of a version of the application, and every front that sends requests to it, so a pool
stays until its last request has ended. A lease is a stream, so it ends however its reader ends; some time after the
last one the holder closes the pool and itself.

The pool's actors do not depend on it: when its process is killed Ray starts another, which finds them by their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import PoolClosed
from actors.launch import Launched, launch
from actors.pool_names import new_life
from actors.supervisor import Supervisor
from serve_app.config import ModelConfig
from serve_app.edge.rate_book import RateBook, RateCall, Verdict
from serve_app.serving.pool_adoption import end_all, find_running

logger = logging.getLogger(__name__)

FIRST_LEASE_S = 60.0
"""A holder that nobody leases in this time was made for an owner that died at once."""
GRACE_S = 10.0
"""An owner that ends, however it ends, may be replaced in this time by one that finds the pool as it was."""
BEAT_S = 1.0
CLOSE_S = 15.0
DRAIN_POLL_S = 0.1
UNUSED_S = 2.0
"""A front whose link broke is back in this time."""


@dataclass(frozen=True, slots=True)
class HeldPool:
    """A pool's dispatcher, the Unix time when the pool was started, and what tells this life of it from the next."""

    dispatcher: Any
    created: int
    life: str


@dataclass(frozen=True, slots=True)
class Retirement:
    """The pool ends as soon as its fronts have left it. `successor` is the holder of the pool that serves the model
    from then on; None: there is none."""

    successor: str | None


@dataclass(frozen=True, slots=True)
class Recalled:
    """The retirement is called off."""


Notice = Retirement | Recalled


class PoolHolder:
    """A detached actor per configuration of a model of an application. All methods run on its event loop."""

    def __init__(self, config: ModelConfig, key: str, created: int) -> None:
        """`key` is that of `pool_names`."""
        self._config, self._key, self._created = config, key, created
        self._life = ""
        self._leases: dict[str, str | None] = {}
        self._left: set[str] = set()
        self._proven = False
        self._retirement: Retirement | None = None
        self._over = asyncio.Event()
        self._changed = asyncio.Event()
        self._rates = RateBook()
        self._tasks = Supervisor(f"holder of {config.name}")
        self._launched: asyncio.Future[Launched] = asyncio.get_running_loop().create_future()
        self._tasks.start("launching", self._launch(), on_end=self._launching_ended)
        self._end_unless_leased(after_s=FIRST_LEASE_S)

    async def pool(self) -> HeldPool:
        """:raises ExlpoolError: the pool could not be started, or ends."""
        if self._over.is_set():
            raise PoolClosed(f"The pool of {self._config.name} ends.")
        launched = await asyncio.shield(self._launched)
        return HeldPool(launched.dispatcher, self._created, self._life)

    async def lease(
        self, lease_id: str, front: str | None = None, recalls: bool = False
    ) -> AsyncIterator[HeldPool | Notice | None]:
        """Keeps the pool until the stream is cancelled, or its reader is gone: only a stream that says something
        hears of that, so after the pool it says None again and again, and notices as they come. It ends with the pool.

        `front` names the front that sends requests to the pool; None: the lease of an owner. A lease that `recalls`
        calls a retirement off.
        """
        self._leases[lease_id] = front
        try:
            if recalls:
                self._recall()
            yield await self.pool()
            told: Retirement | None = None
            while not self._over.is_set():
                changed, now = self._changed, self._retirement
                if now is not told:
                    told = now
                    yield Recalled() if now is None else now
                else:
                    yield None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await changed.wait()
        finally:
            del self._leases[lease_id]
            self._left.discard(lease_id)
            self._end_unless_leased(after_s=GRACE_S)

    async def leave(self, lease_id: str) -> None:
        """The front with this lease has no request here any more, and sends none unless the retirement is called
        off."""
        if self._retirement is not None:
            self._left.add(lease_id)

    async def retire(self, successor: str | None, drain_s: float) -> AsyncIterator[None]:
        """End as soon as no front needs the pool, whoever else holds a lease, and after `drain_s` in any case. It is
        called off when the stream is, or its reader is gone, or a new owner comes; the stream ends then, too."""
        mine = Retirement(successor)
        if self._retirement == mine:
            mine = self._retirement
        self._retirement = mine
        self._tell()
        used_at_s = time.monotonic()
        deadline_s = used_at_s + drain_s
        try:
            yield None
            while self._retirement is mine and not self._over.is_set():
                now_s = time.monotonic()
                used_at_s = now_s if self._fronts() else used_at_s
                unused = bool(self._left) or now_s - used_at_s > UNUSED_S
                if (unused and not self._fronts()) or now_s > deadline_s:
                    self._end()
                    return
                yield None
                await asyncio.sleep(DRAIN_POLL_S)
        finally:
            if self._retirement is mine and not self._over.is_set():
                self._recall()

    async def prove(self) -> None:
        """The pool works. One of which nobody knows that is kept by its owners only, not by fronts that wait for it."""
        self._proven = True

    async def rates(self, calls: Sequence[RateCall]) -> list[Verdict | None]:
        """The book of the rates of an application's keys, kept by the holder of its first model: the one actor that
        every replica of the front finds and that outlives them. It is small, and begins anew with the holder."""
        return self._rates.answer(calls, time.monotonic())

    async def leases(self) -> int:
        """How many are held."""
        return len(self._leases)

    async def fronts(self) -> frozenset[str]:
        """Those that send requests to the pool."""
        return self._fronts()

    async def end(self) -> None:
        """Close the pool and this holder now, whoever holds a lease."""
        self._end()

    def _fronts(self) -> frozenset[str]:
        return frozenset(
            front for lease_id, front in self._leases.items() if front is not None and lease_id not in self._left
        )

    def _end(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._tell()
            self._tasks.start("closing", self._close(), on_end=self._exit)

    def _recall(self) -> None:
        if self._retirement is not None:
            self._retirement = None
            self._left.clear()
            self._tell()

    def _tell(self) -> None:
        """Have every lease say what is new."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _launch(self) -> None:
        found = await asyncio.to_thread(find_running, self._config, self._key)
        if found is not None:
            self._life, launched = found
            self._proven = True
            logger.warning("The pool of %s runs already and is held from now on", self._config.name)
        else:
            self._life = new_life()
            launched = await asyncio.to_thread(launch, self._config.pool(f"{self._key}-{self._life}"))
        self._launched.set_result(launched)

    def _launching_ended(self, failure: BaseException | None) -> None:
        """Whoever waits for the pool is told; the holder then ends with its last lease, or for want of a first."""
        if failure is not None:
            told = failure if isinstance(failure, Exception) else PoolClosed(f"The start was broken off: {failure!r}.")
            self._launched.set_exception(told)
            self._launched.exception()  # told, even if nobody waits

    def _end_unless_leased(self, *, after_s: float) -> None:
        """Look after that time; a pool that could not be started is not kept for anybody."""
        failed = self._launched.done() and self._launched.exception() is not None

        def look() -> None:
            if not self._leases or not (self._proven or None in self._leases.values()):
                self._end()

        asyncio.get_running_loop().call_later(0.0 if failed else after_s, look)

    async def _close(self) -> None:
        await asyncio.wait({self._launched})
        if self._launched.exception() is not None:
            return  # `launch` has ended what was begun of it
        launched = self._launched.result()
        with contextlib.suppress(TimeoutError, RayError):  # killed next, whatever its state
            async with asyncio.timeout(CLOSE_S):
                await launched.dispatcher.close.remote()
        await asyncio.to_thread(end_all, self._config, self._key)

    def _exit(self, failure: BaseException | None) -> None:
        """However the closing went, it is over: nobody starts this holder again."""
        if failure is not None:
            logger.error("The pool of %s could not be closed in good order", self._config.name, exc_info=failure)
        try:
            ray.kill(ray.get_runtime_context().current_actor)
        except Exception:
            logger.exception("The holder of %s cannot end as an actor should", self._config.name)
            os._exit(1)

    def __repr__(self) -> str:
        """Ray asks once, when the actor starts, and puts it before every line of its log: so no state that changes."""
        return f"PoolHolder({self._config.name}.{self._key})"
