"""The handles of a pool's workers, as a front needs them: those that came after its greeting are found by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import first_line
from actors.front.attempt_output import AttemptLost
from actors.ray_session import NAMESPACE, RaySession, worker_name
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

FIND_TIMEOUT_S = 10.0
"""For the cluster to say where a worker is."""


class WorkerHandles:
    """By slot name. A slot's name is never used for another worker."""

    def __init__(self, pool: str, known: Mapping[str, Any]) -> None:
        self._pool = pool
        self._known = dict(known)
        self._session = RaySession()
        self._supervisor = Supervisor(f"handles of {pool}'s workers")
        self._closed = False
        self._looking: dict[str, asyncio.Task[None]] = {}
        """By slot name: one look at a time, however many requests wait for it."""

    async def of(self, worker_id: str) -> Any:
        """The handle of a worker's actor.

        :raises AttemptLost: there is none any more, or nobody could say in time.
        """
        slot_name = worker_id.rpartition("#")[0]
        if slot_name not in self._known and not self._closed:
            await asyncio.wait({self._look(slot_name)}, timeout=FIND_TIMEOUT_S)
        handle = self._known.get(slot_name)
        if handle is None:
            raise AttemptLost(f"worker {worker_id} was not found")
        return handle

    def keep_only(self, worker_ids: Iterable[str]) -> None:
        """Forget all but these: who is needed again is found again."""
        slot_names = {worker_id.rpartition("#")[0] for worker_id in worker_ids}
        self._known = {name: handle for name, handle in self._known.items() if name in slot_names}

    def shut_down(self) -> None:
        self._closed = True
        self._supervisor.shut_down()

    def _look(self, slot_name: str) -> asyncio.Task[None]:
        task = self._looking.get(slot_name)
        if task is None:

            def ended(failure: BaseException | None) -> None:
                del self._looking[slot_name]
                if failure is not None:
                    logger.warning("Worker %s was not found: %s", slot_name, first_line(failure))

            task = self._supervisor.start(f"find {slot_name}", self._find(slot_name), on_end=ended)
            self._looking[slot_name] = task
        return task

    async def _find(self, slot_name: str) -> None:
        self._session.require()
        try:
            name = worker_name(self._pool, slot_name)
            self._known[slot_name] = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
        except (ValueError, RayError) as error:  # it has left the pool since it was named
            logger.warning("Worker %s was not found: %s", slot_name, first_line(error))

    def __repr__(self) -> str:
        return f"<WorkerHandles of {self._pool}: {', '.join(self._known) or 'none'}>"
