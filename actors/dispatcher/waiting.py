"""Workers that wait for a node: who they are, and what is missing.

Ray starts an actor as soon as a node can hold it, and says nothing until then. So whoever is not heard is looked up.
"""

from __future__ import annotations

import asyncio
import logging

from ray.exceptions import RayError

from actors.cluster_room import Claim, alive_nodes, waits_for_node, what_is_missing
from actors.dispatcher.slots import Slot, Slots

logger = logging.getLogger(__name__)

LOOK_S = 1.0


class WaitingWorkers:
    """Looks again and again, and notes in a slot what its worker waits for. `claim` is that of one worker."""

    def __init__(self, claim: Claim, slots: Slots) -> None:
        self._claim = claim
        self._slots = slots

    async def run(self) -> None:
        """Without end."""
        while True:
            await asyncio.sleep(LOOK_S)
            unheard = [slot for slot in self._slots if slot.handle is not None and slot.unheard]
            try:
                told = await asyncio.to_thread(self._look, unheard) if unheard else {}
            except RayError as error:
                logger.warning("Nobody can say what workers wait for: %s", error)
                continue
            await self._note(told)

    def _look(self, unheard: list[Slot]) -> dict[str, str]:
        waiting = [slot.name for slot in unheard if waits_for_node(slot.handle)]
        missing = what_is_missing(self._claim, alive_nodes()) if waiting else ""
        return dict.fromkeys(waiting, missing)

    async def _note(self, told: dict[str, str]) -> None:
        changed = False
        for slot in self._slots:
            waiting = told.get(slot.name, "") if slot.unheard else ""
            if waiting != slot.waiting:
                changed = True
                if waiting and not slot.waiting:
                    logger.warning("%s %s", slot.name, waiting)
                slot.waiting = waiting
        if changed:
            await self._slots.announce()

    def __repr__(self) -> str:
        return f"<WaitingWorkers: {sum(bool(slot.waiting) for slot in self._slots)}>"
