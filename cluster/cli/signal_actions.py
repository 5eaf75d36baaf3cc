"""What the system does at a signal, kept as it is against native code.

Ray's core puts a handler of its own in the place of Python's when it connects, below anything that Python could see:
one that prints a page of addresses at SIGTERM, and aborts the process after three seconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

_BYTES = 1024
"""More than any system's `struct sigaction`, which is only carried about here."""


class SignalActions:
    """The actions of some signals as they were when this was made; `restore` may be called in any thread."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._libc = ctypes.CDLL(None)
        self._kept = {number: self._read(number) for number in numbers}

    def restore(self) -> None:
        for number, kept in self._kept.items():
            if self._read(number).raw != kept.raw:
                self._libc.sigaction(number, kept, None)

    def _read(self, number: int) -> ctypes.Array[ctypes.c_char]:
        action = ctypes.create_string_buffer(_BYTES)
        self._libc.sigaction(number, None, action)
        return action
