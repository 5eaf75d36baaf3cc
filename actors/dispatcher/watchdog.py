"""The watchdog: a worker that is silent although it should be heard is asked, and ended if it hangs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import ray
from ray.exceptions import RayError

from actors.dispatcher.patience import wait_patiently
from actors.dispatcher.slots import Slot
from actors.errors import first_line
from actors.messages import Heartbeat
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
"""For a worker's event loop, which never has much to do, to answer."""


class Watchdog:
    """Probes workers that are suspected. Every probe means one life of a worker, and ends no other.

    `on_ended(slot, worker_id, reason)` hears of every life that it has ended, or whose end it has ordered.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        stall_timeout_s: float,
        on_ended: Callable[[Slot, str, str], Awaitable[None]],
    ) -> None:
        self._supervisor = supervisor
        self._stall_timeout_s = stall_timeout_s
        self._on_ended = on_ended
        self._probed: set[str] = set()
        """Workers that are being probed."""

    def probe(self, slot: Slot, worker_id: str) -> None:
        """Begin to ask this life of the slot's worker, unless that is going on already."""
        if worker_id in self._probed:
            return
        self._probed.add(worker_id)

        def probed(failure: BaseException | None) -> None:
            self._probed.discard(worker_id)
            if failure is not None:  # it is probed again as long as the worker is silent
                logger.error("The probe of worker %s failed: %s", worker_id, first_line(failure))

        self._supervisor.start(f"probe {worker_id}", self._probe(slot, worker_id), on_end=probed)

    async def _probe(self, slot: Slot, worker_id: str) -> None:
        """Ask, and judge. The cases:

        - another life answers: the one that was meant is gone, and there is nothing to end;
        - it answers that its engine waits for work, or not for long: it lives, and what it holds is being asked;
        - its engine has been at one turn for longer than a step may take: it hangs, and ends itself;
        - it does not answer, or cannot end itself: it is killed, if it is still the life that was meant;
        - it cannot be reached: it may be alive, and whoever follows its reports decides what becomes of it.
        """
        try:
            beat: Heartbeat = await wait_patiently(slot.handle.heartbeat.remote(), ANSWER_TIMEOUT_S)
        except TimeoutError:
            await self._kill(slot, worker_id, f"it did not answer within {ANSWER_TIMEOUT_S:g} s")
            return
        except RayError as error:
            logger.warning("Worker %s could not be asked: %s", worker_id, first_line(error))
            return
        if beat.worker_id == worker_id and beat.turn_age_s > self._stall_timeout_s:
            await self._end(slot, worker_id, f"it hung for {beat.turn_age_s:.1f} s in one step")

    async def _end(self, slot: Slot, worker_id: str, reason: str) -> None:
        logger.error("Worker %s is ended: %s", worker_id, reason)
        try:
            await wait_patiently(slot.handle.end.remote(worker_id, reason), ANSWER_TIMEOUT_S)
        except TimeoutError:
            await self._kill(slot, worker_id, reason)
            return
        except RayError as error:  # as it should be: its process ends within the call
            logger.info("Worker %s has ended: %s", worker_id, first_line(error))
        await self._on_ended(slot, worker_id, reason)

    async def _kill(self, slot: Slot, worker_id: str, reason: str) -> None:
        if slot.life != worker_id:
            return
        logger.error("Worker %s is killed: %s", worker_id, reason)
        ray.kill(slot.handle, no_restart=False)
        await self._on_ended(slot, worker_id, reason)

    def __repr__(self) -> str:
        return f"<Watchdog: probing {', '.join(self._probed) or 'nobody'}>"
