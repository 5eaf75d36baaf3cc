"""One request while it is served, and what is told of it: where the time went, the whole completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from actors.errors import DeadlineExceeded, EngineFailure, NoHealthyWorker, WorkerDied
from actors.front.attempt_output import AttemptLost
from actors.messages import Admission, Finished
from actors.request.prepare import PreparedRequest
from actors.results import GenerationResult, Priority, Timing, TokenLogprobs, Usage

T = TypeVar("T")

MAX_DEATHS = 3
"""Attempts of one request that a worker had taken up and that were lost or failed. A request that has lost this many is
taken for the cause and fails."""
MAX_UNSENT = 8
"""Attempts of one request that no worker is known to have had: it was gone before they could be sent, as its front or
the dispatcher was still to learn. The request is not to blame; but it goes round no more often than this."""
UNSENT_PAUSE_S = 0.05
"""Before the attempt after one that could not be sent: in the meantime somebody learns of the death."""
RETRY_AFTER_S = 2.0
"""What a caller is told to wait where a worker was lost."""

Piece = tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]
"""Text, token ids, logprobs, and with the last piece how it ended."""


@dataclass(slots=True)
class Run:
    """The mutable state of one request in its front. `deadline_s` is of `time.monotonic`; None: it has none."""

    request: PreparedRequest
    started_at_s: float
    deadline_s: float | None
    attempt: int = 0
    deaths: int = 0
    unsent: int = 0
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
            age_s=0.0 if self.attempt == 1 else time.monotonic() - self.started_at_s,
        )

    async def within(self, awaitable: Awaitable[T], *, grace_s: float = 0.0) -> T:
        """Await within the request's own time limit, or until `grace_s` after it.

        `asyncio.timeout` and not `wait_for`, which on Python 3.11 swallows a cancellation that comes in the same turn
        of the loop as the result: a caller that went away would be forgotten, and its job would run to the end.
        :raises DeadlineExceeded: the time is over.
        """
        if self.deadline_s is None:
            return await awaitable
        try:
            async with asyncio.timeout(self.deadline_s + grace_s - time.monotonic()):
                return await awaitable
        except TimeoutError:
            raise DeadlineExceeded(f"Not finished within {self.request.options.timeout_s:g} s.") from None

    def pause_after(self, error: AttemptLost | EngineFailure) -> float:
        """An attempt is over without an end: returns after how many seconds the next may begin.

        :raises EngineFailure: the engine failed, and the request cannot be tried again.
        :raises WorkerDied: the attempt was lost, and the request cannot be tried again here.
        :raises NoHealthyWorker: attempt after attempt reached no worker.
        """
        if self.shown:
            if isinstance(error, EngineFailure):
                raise error
            raise WorkerDied(
                f"The worker was lost while it was generating: {error}. The text is not whole; send the request again.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        if isinstance(error, AttemptLost) and not error.taken_up:
            self.unsent += 1
            if self.unsent < MAX_UNSENT:
                return UNSENT_PAUSE_S
            raise NoHealthyWorker(
                f"No worker could be reached, in {self.unsent} attempts, the last one: {error}.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        self.deaths += 1
        if self.deaths < MAX_DEATHS:
            return 0.0
        if isinstance(error, EngineFailure):
            raise error
        raise WorkerDied(
            f"{self.deaths} attempts of this request were lost while a worker had it, the last one: {error}. "
            "The request itself may be the cause."
        ) from None

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
