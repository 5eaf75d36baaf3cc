"""How long a worker waits before it starts again: not at all after one death, ever longer after one upon the other.

A worker that dies at once whenever it is started (a broken device, a driver that does not fit) would otherwise load its
model again and again, and take a request with it each time. Pure: no clock of its own.
"""

from __future__ import annotations

FIRST_PAUSE_S = 1.0
LONG_LIFE_S = 300.0
"""A worker that could generate for so long was well: its death counts as the first one."""
HOPELESS_DEATHS = 5
"""A worker that died so often in a row and could never generate will not be able to."""


class RestartPauses:
    """Of one slot, through all the lives of its worker that this dispatcher has seen."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._deaths = 0
        """In a row, of lives that were short."""
        self._up_at_s: float | None = None
        """Since when the present life can generate."""
        self.ever_up = False

    def came_up(self, now_s: float) -> None:
        """The present life can generate."""
        self._up_at_s = now_s
        self.ever_up = True

    def died(self, now_s: float) -> None:
        """The present life is over, and another one begins."""
        self._deaths = self._deaths_after(now_s)
        self._up_at_s = None

    @property
    def pause_s(self) -> float:
        """Before the engine of the present life starts."""
        return self._pause_after(self._deaths)

    def next_pause_s(self, now_s: float) -> float:
        """The same of the life after it, if the present one is over by now."""
        return self._pause_after(self._deaths_after(now_s))

    @property
    def hopeless(self) -> bool:
        return not self.ever_up and self._deaths >= HOPELESS_DEATHS

    def _deaths_after(self, now_s: float) -> int:
        long = self._up_at_s is not None and now_s - self._up_at_s >= LONG_LIFE_S
        return 1 if long else self._deaths + 1

    def _pause_after(self, deaths: int) -> float:
        if deaths < 2:
            return 0.0
        doublings = min(deaths - 2, 32)  # more are beyond every bound
        return min(FIRST_PAUSE_S * 2.0**doublings, self._longest_s)

    def __repr__(self) -> str:
        return f"<RestartPauses: {self._deaths} deaths in a row, pause of {self.pause_s:g} s>"
