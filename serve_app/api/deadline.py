"""A request's own time limit, from its first byte on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request

from actors.errors import DeadlineExceeded
from serve_app.api.generation import Job
from serve_app.caller import BEGAN_AT_S

T = TypeVar("T")


class Deadline:
    """Of one request; `timeout_s` None: it has none."""

    def __init__(self, request: Request, timeout_s: float | None) -> None:
        self._began_at_s: float = request.scope[BEGAN_AT_S]
        self._timeout_s = timeout_s

    async def within(self, awaitable: Awaitable[T]) -> T:
        """Await something before the pool is asked, which then keeps the limit itself.

        :raises DeadlineExceeded: the time is over.
        """
        if self._timeout_s is None:
            return await awaitable
        try:
            async with asyncio.timeout(self._timeout_s - self._spent_s()) as timeout:
                return await awaitable
        except TimeoutError:
            if not timeout.expired():  # something else's
                raise
            raise DeadlineExceeded(f"Not finished within {self._timeout_s:g} s.") from None

    def imposed(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs, with what they have left."""
        if self._timeout_s is None:
            return jobs
        spent_s = self._spent_s()
        return [replace(job, options=replace(job.options, spent_s=spent_s)) for job in jobs]

    def _spent_s(self) -> float:
        return time.monotonic() - self._began_at_s


def note_first_byte(request: Request) -> None:
    """Where nothing before the API has done so."""
    request.scope.setdefault(BEGAN_AT_S, time.monotonic())
