"""The number of workers follows the load, between the bounds that the pool's configuration names."""

from __future__ import annotations

import asyncio
import logging
import time

from actors.cluster_room import Claim, Growth, growth, room_for
from actors.config import PoolConfig
from actors.dispatcher.membership import Membership
from actors.dispatcher.slots import Slots
from actors.scheduling.scaling import Load, Scaling, load_of
from actors.scheduling.state import SchedulerState

logger = logging.getLogger(__name__)

LOOK_S = 0.5
GRACE_S = 30.0
"""What runs on a worker that is given back has so long to end there."""


class Autoscaler:
    """Looks at the load again and again; what to do is for `actors.scheduling.scaling` to say."""

    def __init__(
        self, config: PoolConfig, claim: Claim, state: SchedulerState, slots: Slots, members: Membership
    ) -> None:
        """`claim` is that of one worker."""
        fewest, most = config.bounds
        self._scaling = Scaling(
            min_workers=fewest,
            max_workers=most,
            up_wait_s=config.scale_up_wait_s,
            down_after_s=config.scale_down_after_s,
        )
        self._claim = claim
        self._waits = config.wait
        self._state = state
        self._slots = slots
        self._members = members

    async def run(self) -> None:
        """Without end."""
        while True:
            await asyncio.sleep(LOOK_S)
            load = self._load()
            target = self._scaling.target(time.monotonic(), load)
            if not self._slots.any_ready():
                # No worker has ever been up, so no front knows what they take: none could ask, and so wake, the pool.
                target = max(target, 1)
            if target > load.workers:
                target = min(target, load.workers + await asyncio.to_thread(self._further))
            if target != load.workers:
                logger.warning("The pool goes from %d to %d workers: %s", load.workers, target, load)
                await self._members.scale(target, GRACE_S)

    def _load(self) -> Load:
        staying = [self._slots[worker.name] for worker in self._members.plan.staying]
        starting = sum(slot.worker_id is None and slot.failure is None for slot in staying)
        return load_of(self._state, time.monotonic(), workers=len(staying), starting=starting)

    def _further(self) -> int:
        """How many more workers may be asked for: those that fit in now, or any where the cluster grows by demand."""
        if self._waits and growth() is Growth.AUTOSCALER:
            return 1024
        return room_for(self._claim)

    def __repr__(self) -> str:
        return f"<Autoscaler: {self._scaling!r}>"
