"""A clock that an engine's thread keeps and another process reads, to tell an engine that works from one that hangs."""

from __future__ import annotations

import mmap
import struct
import time
from typing import NamedTuple

_LAYOUT = struct.Struct("=dqqd")
CLOCK_BYTES = _LAYOUT.size
_NO_TURN = -1.0


class ClockReading(NamedTuple):
    """What the engine's thread last wrote down, and when."""

    steps: int
    commands: int
    """Taken up by the end of the turn before."""
    turn_began_at_s: float | None
    written_at_s: float


class StepClock:
    """How far the engine's thread has come, in memory that both processes see."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, CLOCK_BYTES)

    def write(self, steps: int, commands: int, turn_began_at_s: float | None) -> None:
        began_at_s = _NO_TURN if turn_began_at_s is None else turn_began_at_s
        # The time comes first: whoever reads half of this takes the thread for one that has just moved.
        _LAYOUT.pack_into(self._memory, 0, time.monotonic(), steps, commands, began_at_s)

    def read(self) -> ClockReading:
        written_at_s, steps, commands, began_at_s = _LAYOUT.unpack_from(self._memory)
        return ClockReading(steps, commands, None if began_at_s == _NO_TURN else began_at_s, written_at_s)
