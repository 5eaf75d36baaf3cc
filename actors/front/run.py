"""One request while it is served: what its caller has of it, its attempts, and where the time went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from actors.errors import DeadlineExceeded, EngineFailure, NoHealthyWorker, WorkerDied
from actors.front.attempt_output import AttemptLost
from actors.front.suspicion import Suspicion
from actors.messages import Admission, Finished, GenerationRequest
from actors.paging.hashes import page_hashes
from actors.request.prepare import PreparedRequest
from actors.results import GenerationResult, Priority, Timing, TokenLogprobs, Usage

T = TypeVar("T")

MAX_UNSENT = 8
"""Attempts of one request that no worker is known to have had: it was gone before they could be sent, as its front or
the dispatcher was still to learn. The request is not to blame; but it goes round no more often than this."""
UNSENT_PAUSE_S = 0.05
"""Before the attempt after one that could not be sent: in the meantime somebody learns of the death."""
RETRY_AFTER_S = 2.0
"""What a caller is told to wait where no worker could be reached."""

Piece = tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]
"""Text, token ids, logprobs, and with the last piece how it ended."""


@dataclass(slots=True)
class Run:
    """The mutable state of one request in its front. `deadline_s` is of `time.monotonic`; None: it has none.

    Each attempt goes on behind what the attempts before it have made, as far as it has come here.
    """

    request: PreparedRequest
    started_at_s: float
    deadline_s: float | None
    attempt: int = 0
    unsent: int = 0
    excluded: frozenset[str] = frozenset()
    worker_id: str = ""
    granted_at_s: float = 0.0
    completion_ids: list[int] = field(default_factory=list)
    """All that has come of the completion, over all attempts."""
    _suspicion: Suspicion = field(default_factory=Suspicion)
    _token_ids: tuple[int, ...] = ()
    """What the present attempt begins with: the prompt, and the completion as it was then."""
    _page_hashes: tuple[bytes, ...] = ()
    _first_timing: Timing | None = None
    """As the first piece of the completion came."""
    _pieces_from_s: float = 0.0
    _pieces_until_s: float = 0.0
    """When the first and the last piece of the present attempt came."""

    def begin_attempt(self) -> None:
        """The next attempt, behind all that has come."""
        self.attempt += 1
        self._token_ids = (*self.request.token_ids, *self.completion_ids)
        self._page_hashes = page_hashes(self._token_ids, self._page_hashes or self.request.page_hashes)
        self._pieces_from_s = self._pieces_until_s = 0.0

    @property
    def resumed_tokens(self) -> int:
        """How much of the completion was there when the present attempt began."""
        return len(self._token_ids) - len(self.request.token_ids)

    @property
    def shown(self) -> bool:
        """Something of the completion has come."""
        return self._first_timing is not None

    def admission(self) -> Admission:
        """What the dispatcher hears of the present attempt."""
        request = self.request
        return Admission(
            request_id=request.request_id,
            attempt=self.attempt,
            prompt_tokens=len(self._token_ids),
            max_new_tokens=request.max_new_tokens - self.resumed_tokens,
            page_hashes=self._page_hashes,
            priority=Priority(request.options.priority),
            tenant=request.options.tenant,
            timeout_s=None if self.deadline_s is None else max(self.deadline_s - time.monotonic(), 1e-3),
            excluded_workers=self.excluded,
            age_s=0.0 if self.attempt == 1 else time.monotonic() - self.started_at_s,
        )

    def generation_request(self, ticket: int, *, whole: bool) -> GenerationRequest:
        """What the worker hears of the present attempt."""
        request = self.request
        return GenerationRequest(
            ticket=ticket,
            request_id=request.request_id,
            attempt=self.attempt,
            token_ids=self._token_ids,
            max_new_tokens=request.max_new_tokens - self.resumed_tokens,
            seed=request.seed,
            params=request.params,
            page_hashes=self._page_hashes,
            whole=whole,
            resumed_tokens=self.resumed_tokens,
        )

    def note_piece(self, token_ids: tuple[int, ...]) -> None:
        """A piece of the completion has come from the present attempt."""
        self._pieces_until_s = time.monotonic()
        if not self._pieces_from_s:
            self._pieces_from_s = self._pieces_until_s
        if self._first_timing is None:
            self._first_timing = self.timing(None)
        self.completion_ids += token_ids

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

        :raises EngineFailure: an engine has failed under this request again, which may be the cause.
        :raises WorkerDied: a worker has died under this request again, which may be the cause.
        :raises NoHealthyWorker: attempt after attempt reached no worker.
        """
        if isinstance(error, AttemptLost) and error.moved:
            return 0.0
        if isinstance(error, AttemptLost) and not error.taken_up:
            self.unsent += 1
            if self.unsent < MAX_UNSENT:
                return UNSENT_PAUSE_S
            raise NoHealthyWorker(
                f"No worker could be reached, in {self.unsent} attempts, the last one: {error}.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        self._suspicion.note_death(self._pieces_until_s - self._pieces_from_s)
        if not self._suspicion.certain:
            return 0.0
        if isinstance(error, EngineFailure):
            raise error
        raise WorkerDied(
            f"{self._suspicion.deaths_in_all} attempts of this request were lost while a worker had it, the last one: "
            f"{error}. The request itself may be the cause: it is not tried again."
        ) from None

    def timing(self, finished: Finished | None) -> Timing:
        """Where the time went so far. Until the first token that is told by the attempt which made it; the worker's
        own share of that is known at its end only."""
        now_s = time.monotonic()
        if self._first_timing is not None and (self.resumed_tokens or finished is None):
            return replace(self._first_timing, total_s=now_s - self.started_at_s)
        queue_s = self.granted_at_s - self.started_at_s + (finished.queue_s if finished else 0.0)
        prefill_s = finished.prefill_s if finished else now_s - self.granted_at_s
        return Timing(
            queue_s=queue_s, prefill_s=prefill_s, first_token_s=queue_s + prefill_s, total_s=now_s - self.started_at_s
        )

    def usage(self, finished: Finished) -> Usage:
        """Of the whole completion: a token that was made again after a loss counts once."""
        prompt_tokens = len(self.request.token_ids)
        cached_tokens = min(finished.cached_tokens, prompt_tokens)
        return Usage(prompt_tokens, self.resumed_tokens + finished.completion_tokens, cached_tokens)

    def result(self, text: str, logprobs: tuple[TokenLogprobs, ...], finished: Finished) -> GenerationResult:
        """The whole completion."""
        return GenerationResult(
            request_id=self.request.request_id,
            text=text,
            token_ids=tuple(self.completion_ids),
            finish_reason=finished.reason,
            usage=self.usage(finished),
            timing=self.timing(finished),
            worker_id=self.worker_id,
            attempts=self.attempt,
            seed=self.request.seed,
            logprobs=logprobs,
        )
