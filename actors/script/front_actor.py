"""The small actor beside every script: `pool.generate.remote` is a call to it."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.request.options import request_options
from actors.request.prompt import Prompt
from actors.results import GenerationResult
from actors.script.shared_front import SharedFront

MAX_CONCURRENT_CALLS = 1000
"""Requests of one script that are served or queued in the pool at a time; Ray keeps further calls in order."""


class FrontActor:
    """A patient front in a process of its own, so that a busy script does not hold up its own results."""

    def __init__(self, dispatcher: Any) -> None:
        self._shared = SharedFront(dispatcher)

    async def open(self) -> None:
        """:raises ExlpoolError: no worker could be loaded."""
        await self._shared.get()

    async def generate(self, prompt: Prompt, **options: Any) -> GenerationResult:
        """See `Pool.generate`."""
        front = await self._shared.get()
        return await front.generate(prompt, request_options(**options))

    async def debug_state(self) -> dict[str, int]:
        """Numbers for tests of what is left over."""
        return {"tasks": len(asyncio.all_tasks()) - 1}

    def __repr__(self) -> str:
        return "<FrontActor>"  # short, since Ray puts it before every line of the actor's log
