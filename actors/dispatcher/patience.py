"""Waiting for others without blaming them for one's own pauses. Pure asyncio."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

SLICE_S = 0.25


async def wait_patiently(call: Awaitable[T], patience_s: float) -> T:
    """Wait for an answer while this event loop runs for `patience_s`.

    The time is counted in slices, each of them once, however late it ends. A process that was stopped itself, or got no
    processor for a while, takes in the answer that came meanwhile; one timeout over all would find the time to be up.

    :raises TimeoutError: there was no answer.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def count(slices: int) -> None:
        nonlocal timer
        timer = loop.call_later(SLICE_S, count, slices - 1) if slices else None
        if not slices:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        count(math.ceil(patience_s / SLICE_S))
        try:
            return await call
        finally:
            if timer is not None:
                timer.cancel()
