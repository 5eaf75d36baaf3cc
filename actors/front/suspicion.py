"""Whether a request is what workers die of. A pure judgement over the deaths that it has seen."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEATHS = 2
"""Deaths in a row under one request, after which it is taken for their cause."""
CLEARED_S = 1.0
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
