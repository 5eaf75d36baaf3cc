"""One request while it is served, and what is told of it: where the time went, the whole completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from actors.errors import DeadlineExceeded, EngineFailure, WorkerDied
from actors.front.attempt_output import AttemptLost
from actors.messages import Admission, Finished
from actors.request.prepare import PreparedRequest
from actors.results import GenerationResult, Priority, Timing, TokenLogprobs, Usage

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Placements of one request. A request that has lost this many is taken for the cause and fails."""

Piece = tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]
"""Text, token ids, logprobs, and with the last piece how it ended."""


@dataclass(slots=True)
class Run:
    """The mutable state of one request in its front. `deadline_s` is of `time.monotonic`; None: it has none."""

    request: PreparedRequest
    started_at_s: float
    deadline_s: float | None
    attempt: int = 0
    excluded: frozenset[str] = frozenset()
    worker_id: str = ""
    granted_at_s: float = 0.0
    shown: bool = False
    """The caller has seen something of it, so it cannot begin anew."""

    def admission(self) -> Admission:
        """What the dispatcher hears of the present attempt."""
        request = self.request
        return Admission(
            request_id=request.request_id,
            attempt=self.attempt,
            prompt_tokens=len(request.token_ids),
            max_new_tokens=request.max_new_tokens,
            page_hashes=request.page_hashes,
            priority=Priority(request.options.priority),
            tenant=request.options.tenant,
            timeout_s=None if self.deadline_s is None else max(self.deadline_s - time.monotonic(), 1e-3),
            excluded_workers=self.excluded,
        )

    async def within(self, awaitable: Awaitable[T]) -> T:
        """Await within the request's own time limit.

        `asyncio.timeout` and not `wait_for`, which on Python 3.11 swallows a cancellation that comes in the same turn
        of the loop as the result: a caller that went away would be forgotten, and its job would run to the end.
        :raises DeadlineExceeded: the time is over.
        """
        if self.deadline_s is None:
            return await awaitable
        try:
            async with asyncio.timeout(self.deadline_s - time.monotonic()):
                return await awaitable
        except TimeoutError:
            raise DeadlineExceeded(f"Not finished within {self.request.options.timeout_s:g} s.") from None

    def raise_if_final(self, error: AttemptLost | EngineFailure) -> None:
        """An attempt is over without an end.

        :raises EngineFailure: the engine failed, and the request cannot be tried again.
        :raises WorkerDied: the attempt was lost, and the request cannot be tried again.
        """
        if not self.shown and self.attempt < MAX_ATTEMPTS:
            return
        if isinstance(error, EngineFailure):
            raise error
        if self.shown:
            raise WorkerDied(f"The worker was lost while it was generating: {error}.") from None
        raise WorkerDied(f"{self.attempt} attempts of this request were lost, the last one: {error}.") from None

    def timing(self, finished: Finished | None) -> Timing:
        """Where the time went so far; the worker's own share is known at the end only."""
        now_s = time.monotonic()
        queue_s = self.granted_at_s - self.started_at_s + (finished.queue_s if finished else 0.0)
        prefill_s = finished.prefill_s if finished else now_s - self.granted_at_s
        return Timing(
            queue_s=queue_s, prefill_s=prefill_s, first_token_s=queue_s + prefill_s, total_s=now_s - self.started_at_s
        )

    def result(
        self, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...], finished: Finished
    ) -> GenerationResult:
        """The whole completion."""
        return GenerationResult(
            request_id=self.request.request_id,
            text=text,
            token_ids=token_ids,
            finish_reason=finished.reason,
            usage=usage_of(finished),
            timing=self.timing(finished),
            worker_id=self.worker_id,
            attempts=self.attempt,
            seed=self.request.seed,
            logprobs=logprobs,
        )


def usage_of(finished: Finished) -> Usage:
    return Usage(finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens)
