"""How streams of a worker wait for something to tell."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Changes(asyncio.Event):
    """Set at every change; whoever hears of it clears it."""

    async def next(self) -> None:
        await self.wait()
        self.clear()

    async def next_within(self, timeout_s: float) -> bool:
        """Wait for a change, but no longer than this; returns whether there was one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.next()
                return True
        return False
