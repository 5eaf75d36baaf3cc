"""The watchdog: a worker that is silent although it has work is asked, and ended if it hangs."""

from __future__ import annotations

import asyncio
import logging

import ray
from ray.exceptions import RayError

from actors.dispatcher.slots import Slot
from actors.errors import first_line
from actors.messages import Heartbeat
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
"""For a worker's event loop, which never has much to do, to answer."""


class Watchdog:
    """Probes workers that the scheduler suspects. Every probe means one life of a worker, and ends no other."""

    def __init__(self, supervisor: Supervisor, stall_timeout_s: float) -> None:
        self._supervisor = supervisor
        self._stall_timeout_s = stall_timeout_s
        self._probed: set[str] = set()
        """Workers that are being probed."""

    def probe(self, slot: Slot, worker_id: str) -> None:
        """Begin to ask this life of the slot's worker, unless that is going on already."""
        if worker_id in self._probed:
            return
        self._probed.add(worker_id)

        def probed(failure: BaseException | None) -> None:
            self._probed.discard(worker_id)
            if failure is not None:  # the scheduler asks for the next probe as long as the worker is silent
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
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                beat: Heartbeat = await slot.handle.heartbeat.remote()
            if beat.worker_id != worker_id or beat.turn_age_s <= self._stall_timeout_s:
                return
            logger.error("Worker %s hangs for %.1f s in one step, it is ended", worker_id, beat.turn_age_s)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await slot.handle.end.remote(worker_id, f"it hung for {beat.turn_age_s:.1f} s in one step")
        except TimeoutError:
            if slot.worker_id == worker_id:
                logger.error("Worker %s does not answer within %g s, it is killed", worker_id, ANSWER_TIMEOUT_S)
                ray.kill(slot.handle, no_restart=False)
        except RayError as error:
            logger.warning("Worker %s could not be asked: %s", worker_id, first_line(error))

    def __repr__(self) -> str:
        return f"<Watchdog: probing {', '.join(self._probed) or 'nobody'}>"
