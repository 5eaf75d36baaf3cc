"""How a worker that is not needed any more is ended."""

from __future__ import annotations

import asyncio
import logging

import ray
from ray.exceptions import RayError

from actors.dispatcher.slots import Slot
from actors.errors import first_line
from actors.supervisor import Supervisor, end_process

logger = logging.getLogger(__name__)

STOP_S = 15.0
"""For an empty worker to close its engine; then it is killed."""


class Stopper:
    """Ends workers in the background, each once."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def stop(self, slot: Slot) -> None:
        if slot.stopping:
            return
        slot.stopping = True

        def stopped(failure: BaseException | None) -> None:
            if failure is not None:
                end_process("A worker's end")(failure)

        self._supervisor.start(f"stop {slot.name}", self._stop(slot), on_end=stopped)

    async def _stop(self, slot: Slot) -> None:
        if slot.handle is None:
            return  # whoever looks for it sees that it is to leave
        if slot.worker_id is not None:
            try:
                async with asyncio.timeout(STOP_S):
                    await slot.handle.close.remote()
            except (TimeoutError, RayError) as error:
                logger.warning("Worker %s did not close, it is killed: %s", slot.name, first_line(error))
        ray.kill(slot.handle)

    def __repr__(self) -> str:
        return f"<Stopper: {self._supervisor!r}>"
