"""The small actor beside every script: `pool.generate.remote` is a call to it."""

from __future__ import annotations

from typing import Any

from actors.front.front import Front
from actors.request.options import request_options
from actors.request.prompt import Prompt
from actors.results import GenerationResult

MAX_CONCURRENT_CALLS = 1000
"""Requests of one script that are served or queued in the pool at a time; Ray keeps further calls in order."""


class FrontActor:
    """A patient front in a process of its own, so that a busy script does not hold up its own results."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._front: Front | None = None

    async def open(self) -> None:
        """:raises ExlpoolError: no worker could be loaded."""
        if self._front is None:
            self._front = await Front.open(self._dispatcher, patient=True)

    async def generate(self, prompt: Prompt, **options: Any) -> GenerationResult:
        """See `Pool.generate`."""
        if self._front is None:
            await self.open()
        assert self._front is not None
        return await self._front.generate(prompt, request_options(**options))

    async def close(self) -> None:
        if self._front is not None:
            await self._front.close()
