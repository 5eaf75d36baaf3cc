"""Whether a request is what workers die of, and where it is likely to see another death. Pure judgements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_DEATHS = 2
"""Deaths in a row under one request, after which it is taken for their cause."""
CLEARED_S = 0.5
"""A request that has gone on for so long, in another place, is not what the worker before died of: it was resumed
from what its front had, which is no more than `actors.worker.engine_thread.WHOLE_PIECE_S` behind what had been made,
so it would have come to the same place by now."""
MAX_DEATHS_IN_ALL = 8
"""However far it has come in between."""


@dataclass(slots=True)
class Suspicion:
    """Of one request. A death is a worker's that had taken it up, or a failure of the engine that worked on it."""

    deaths: int = 0
    deaths_in_all: int = 0

    def note_death(self, generated_s: float) -> None:
        """Its attempt is over, after tokens had come for `generated_s`."""
        if generated_s >= CLEARED_S:
            self.deaths = 0
        self.deaths += 1
        self.deaths_in_all += 1

    @property
    def certain(self) -> bool:
        """It must not be tried once more."""
        return self.deaths >= MAX_DEATHS or self.deaths_in_all >= MAX_DEATHS_IN_ALL


def endangered(lost_id: str, nodes: Mapping[str, str]) -> frozenset[str]:
    """A worker that was lost, and those that may be about to be. `nodes` are the nodes of known workers, by id.

    The whole node may have died, where the pool has others: a request that went from one worker of it to the next would
    look like the killer of both.
    """
    lost_with = {name for name, node_id in nodes.items() if node_id == nodes.get(lost_id)}
    return frozenset({lost_id}) if len(lost_with) == len(nodes) else frozenset({lost_id, *lost_with})
