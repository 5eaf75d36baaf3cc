"""On which nodes the workers of a pool are started.

Spreading is Ray's own: of the nodes with room it takes one after the other. What it calls packing is not: of an actor
it fills the first nodes by half. So for that a node is chosen here, as a wish: where it cannot be had, Ray starts the
worker elsewhere. Nothing is reserved, and a worker that is started again goes back to its node, if that has room.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster_room import Claim, Node, alive_nodes
from actors.config import Placement


class WorkerPlaces:
    """Chooses nodes for workers that are started at once, by what is free when the first of them is."""

    def __init__(self) -> None:
        self._nodes: tuple[Node, ...] | None = None
        self._chosen: Counter[str] = Counter()

    def choose(self, placement: Placement, claim: Claim) -> Any:
        """Ray's scheduling strategy for the next worker."""
        if placement == "spread":
            return "SPREAD"
        if self._nodes is None:
            self._nodes = alive_nodes()
        rooms = {node.node_id: node.room(claim) - self._chosen[node.node_id] for node in self._nodes}
        fullest = min((node_id for node_id, room in rooms.items() if room > 0), key=rooms.__getitem__, default=None)
        if fullest is None:
            return None  # it waits for a node
        self._chosen[fullest] += 1
        return NodeAffinitySchedulingStrategy(fullest, soft=True, _spill_on_unavailable=True)

    def __repr__(self) -> str:
        return f"<WorkerPlaces: {dict(self._chosen)}>"
