"""What requests for a model go through before they are prepared: shut while its pool gives way to the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from actors.errors import NoHealthyWorker

MAX_HELD = 1024
"""Requests of one model that wait here; the bodies of more would fill the memory."""
REPLACED_RETRY_S = 2.0
"""What a client is told to wait while its model is taken away."""


class Gate:
    """Open at first. All methods run on the event loop that serves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._opened = asyncio.Event()
        self._opened.set()
        self._until_s = 0.0
        self._refuses = False
        self._held = 0
        self.inside = 0
        """Requests that are past the gate and whose answer has not begun."""

    def hold(self, max_s: float) -> None:
        """Let requests wait from now on, each for at most so long from now."""
        self._until_s, self._refuses = time.monotonic() + max_s, False
        self._opened.clear()

    def refuse(self) -> None:
        """Refuse requests from now on: the model is being taken away."""
        self._refuses = True
        self._opened.clear()

    def open(self) -> None:
        """Let all go on."""
        self._opened.set()

    async def passed(self) -> None:
        """Wait until the gate is open.

        :raises NoHealthyWorker: it stays shut, or too many wait.
        """
        if self._opened.is_set():
            return
        if self._refuses:
            raise NoHealthyWorker(f"The model {self._name!r} is being replaced.", retry_after_s=REPLACED_RETRY_S)
        if self._held >= MAX_HELD:
            raise NoHealthyWorker(
                f"{self._held} requests wait for the next pool of {self._name!r}.", retry_after_s=REPLACED_RETRY_S
            )
        self._held += 1
        try:
            async with asyncio.timeout(self._until_s - time.monotonic()):
                await self._opened.wait()
        except TimeoutError:
            raise NoHealthyWorker(
                f"The next pool of {self._name!r} is not there yet.", retry_after_s=REPLACED_RETRY_S
            ) from None
        finally:
            self._held -= 1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request until its answer begins."""
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def __repr__(self) -> str:
        state = "open" if self._opened.is_set() else "refusing" if self._refuses else f"{self._held} wait"
        return f"<Gate of {self._name}: {state}>"
