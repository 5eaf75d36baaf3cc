"""The front: a request becomes a stream of deltas.

A front lives in the process of whoever wants text (a script, a Serve replica, the actor behind `pool.generate`), on
one asyncio event loop. It tokenises, asks the dispatcher for a place, reads tokens straight from the worker, and goes
elsewhere when a worker dies under a request that has shown nothing yet.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorUnavailableError

from actors.errors import DeadlineExceeded, EngineFailure, Overloaded, PoolClosed, WorkerDied
from actors.front.attempt_output import AttemptLost, Inbox
from actors.front.dispatcher_link import RECONNECT_INTERVAL_S, DispatcherLink
from actors.front.worker_link import WorkerLink
from actors.messages import Admission, Finished, GenerationRequest, Grant, Welcome, WorkerLimits
from actors.paging.hashes import page_hashes
from actors.request.options import RequestOptions
from actors.request.prepare import PreparedRequest, prepare
from actors.request.prompt import Prompt, PromptEncoder
from actors.results import Delta, FinishReason, GenerationResult, Priority, Timing, TokenLogprobs, Usage

MAX_ATTEMPTS = 3
"""Placements of one request. A request that saw this many workers die is taken for the cause and fails."""
LONG_PROMPT = 20_000
"""Texts of so many characters, and lists of so many ids, are prepared off the event loop, since they take it for more
than a few milliseconds. So are messages, whose template may do anything."""
GREETING_TIMEOUT_S = 60.0
PATIENCE_MIN_S, PATIENCE_MAX_S = 0.05, 5.0


@dataclass(slots=True)
class _Run:
    """The mutable state of one request while it is served."""

    request: PreparedRequest
    started_at_s: float
    attempt: int = 0
    excluded: frozenset[str] = frozenset()
    worker_id: str = ""
    granted_at_s: float = 0.0
    first_at_s: float | None = None
    shown: bool = False

    def remaining_s(self) -> float | None:
        timeout_s = self.request.options.timeout_s
        return None if timeout_s is None else self.started_at_s + timeout_s - time.monotonic()


Piece = tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...], Finished | None]


class Front:
    """Create with `await Front.open(...)` on the loop that will use it; `close` before the loop ends.

    A patient front waits when the pool is overloaded, as a script wants it; an impatient one raises `Overloaded`, as a
    server must.
    """

    def __init__(self, dispatcher: Any, welcome: Welcome, encoder: PromptEncoder, *, patient: bool) -> None:
        self.front_id = f"front-{secrets.token_hex(6)}"
        self.encoder = encoder
        self._welcome = welcome
        self._patient = patient
        self._places = DispatcherLink(self.front_id, dispatcher)
        self._links: dict[str, WorkerLink] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._next_ticket = 1
        self._closed = False

    @classmethod
    async def open(cls, dispatcher: Any, *, patient: bool) -> Front:
        """Greet the dispatcher and wait until one of its workers can generate.

        :raises ExlpoolError: no worker could be loaded.
        """
        welcome = await _greet(dispatcher)
        encoder = await asyncio.to_thread(PromptEncoder.load, welcome.model_dir)
        return cls(dispatcher, welcome, encoder, patient=patient)

    @property
    def model_dir(self) -> str:
        return self._welcome.model_dir

    @property
    def limits(self) -> tuple[WorkerLimits, ...]:
        """What the workers that were there at the greeting can take."""
        return self._welcome.limits

    @property
    def reachable(self) -> bool:
        """Whether this front can carry requests: it hears the dispatcher, and of the workers it has used at least one
        link is open or was never tried."""
        return not self._closed

    def shut_down(self) -> None:
        """Close without waiting; must be called on the front's own event loop. What runs ends with `PoolClosed`."""
        self._closed = True
        self._places.shut_down()
        for link in self._links.values():
            link.shut_down()

    async def close(self) -> None:
        """Cancel everything that still runs; workers and dispatcher forget this front."""
        self.shut_down()
        await self._places.wait_closed()
        await asyncio.gather(*(link.wait_closed() for link in self._links.values()), *self._retiring)

    async def generate(self, prompt: Prompt, options: RequestOptions) -> GenerationResult:
        """The whole completion: the deltas of a stream, joined.

        :raises ExlpoolError: the request is wrong, was refused, or failed.
        """
        run = await self._begin(prompt, options)
        pieces = self._pieces(run, whole=True)
        try:
            text, token_ids, logprobs, finished = await anext(pieces)
        finally:
            await pieces.aclose()
        assert finished is not None, "a whole completion comes as one piece, with its end"
        return _result(run, text, token_ids, logprobs, finished)

    async def stream(self, prompt: Prompt, options: RequestOptions) -> AsyncGenerator[Delta, None]:
        """The completion as it is made; the last delta has `finish_reason` and `usage`. Closing it cancels.

        :raises ExlpoolError: the request is wrong, was refused, or failed.
        """
        run = await self._begin(prompt, options)
        pieces = self._pieces(run, whole=False)
        try:
            async for text, token_ids, logprobs, finished in pieces:
                timing = _timing(run, finished) if finished or not run.shown else None
                run.shown = True
                yield Delta(
                    text=text,
                    token_ids=token_ids,
                    logprobs=logprobs,
                    finish_reason=finished.reason if finished else None,
                    usage=_usage(finished) if finished else None,
                    timing=timing,
                )
        finally:
            await pieces.aclose()

    async def _begin(self, prompt: Prompt, options: RequestOptions) -> _Run:
        started_at_s = time.monotonic()
        arguments = (self.encoder, prompt, options, self._welcome.limits, self._welcome.default_max_new_tokens)
        if _is_quick(prompt):
            request = prepare(*arguments)
        else:
            request = await asyncio.to_thread(prepare, *arguments)
        return _Run(request, started_at_s)

    async def _pieces(self, run: _Run, *, whole: bool) -> AsyncGenerator[Piece, None]:
        """Place the request and pass on what its worker makes; place it again if that worker is lost in time."""
        while True:
            grant = await self._place(run)
            attempt = self._attempt(run, grant, whole=whole)
            try:
                async for piece in attempt:
                    yield piece
                return
            except (AttemptLost, EngineFailure) as error:
                if self._closed:
                    raise PoolClosed("The pool was closed before the request's end.") from None
                _raise_if_final(run, error)
                run.excluded |= {grant.worker_id}
            finally:
                await attempt.aclose()

    async def _place(self, run: _Run) -> Grant:
        run.attempt += 1
        while True:
            try:
                grant: Grant = await self._within(run, self._places.place(self._admission(run)))
            except Overloaded as refusal:
                if not self._patient:
                    raise
                pause_s = min(max(refusal.retry_after_s or 0.0, PATIENCE_MIN_S), PATIENCE_MAX_S)
                await self._within(run, asyncio.sleep(pause_s))
            else:
                run.worker_id, run.granted_at_s = grant.worker_id, time.monotonic()
                return grant

    def _admission(self, run: _Run) -> Admission:
        request = run.request
        return Admission(
            request_id=request.request_id,
            attempt=run.attempt,
            prompt_tokens=len(request.token_ids),
            max_new_tokens=request.max_new_tokens,
            page_hashes=page_hashes(request.token_ids),
            priority=Priority(request.options.priority),
            tenant=request.options.tenant,
            timeout_s=run.remaining_s(),
            excluded_workers=run.excluded,
        )

    async def _attempt(self, run: _Run, grant: Grant, *, whole: bool) -> AsyncGenerator[Piece, None]:
        request = run.request
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        inbox = Inbox(grant.worker_id, whole=whole)
        link = self._link(grant.worker_id)
        finished: Finished | None = None
        try:
            await link.start(
                GenerationRequest(
                    ticket=ticket,
                    request_id=request.request_id,
                    attempt=grant.attempt,
                    token_ids=request.token_ids,
                    max_new_tokens=request.max_new_tokens,
                    seed=request.seed,
                    params=request.params,
                    whole=whole,
                ),
                inbox,
            )
            while finished is None:
                text, token_ids, logprobs, finished = await self._within(run, inbox.take())
                if finished is not None and finished.reason is FinishReason.ERROR:
                    raise finished.error or EngineFailure("The engine failed without a reason.")
                if run.first_at_s is None:
                    run.first_at_s = time.monotonic()
                yield text, token_ids, logprobs, finished
        finally:
            if finished is None:
                link.cancel(ticket)
                self._places.release(request.request_id, grant.attempt)

    def _link(self, worker_id: str) -> WorkerLink:
        slot_name = worker_id.rpartition("#")[0]
        link = self._links.get(slot_name)
        if link is None or link.worker_id != worker_id:
            if link is not None:
                self._retire(link)
            handle = self._welcome.workers[slot_name]
            link = self._links[slot_name] = WorkerLink(self.front_id, worker_id, handle)
        return link

    def _retire(self, link: WorkerLink) -> None:
        link.shut_down()
        task = asyncio.create_task(link.wait_closed())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _within(self, run: _Run, awaitable: Any) -> Any:
        """Await within the request's own time limit."""
        remaining_s = run.remaining_s()
        if remaining_s is None:
            return await awaitable
        try:
            return await asyncio.wait_for(awaitable, max(remaining_s, 0.0))
        except TimeoutError:
            raise DeadlineExceeded(f"Not finished within {run.request.options.timeout_s:g} s.") from None


async def _greet(dispatcher: Any) -> Welcome:
    """Greet a dispatcher, through a restart of it if need be."""
    deadline_s = time.monotonic() + GREETING_TIMEOUT_S
    while True:
        try:
            welcome: Welcome = await dispatcher.hello.remote()
        except ActorUnavailableError:
            if time.monotonic() > deadline_s:
                raise PoolClosed(f"The dispatcher did not come back within {GREETING_TIMEOUT_S:g} s.") from None
            await asyncio.sleep(RECONNECT_INTERVAL_S)
        else:
            return welcome


def _raise_if_final(run: _Run, error: AttemptLost | EngineFailure) -> None:
    if not run.shown and run.attempt < MAX_ATTEMPTS:
        return
    if isinstance(error, EngineFailure):
        raise error
    if run.shown:
        raise WorkerDied(f"The worker died while it was generating: {error}.") from None
    raise WorkerDied(f"{run.attempt} workers died under this request, the last one: {error}.") from None


def _is_quick(prompt: Prompt) -> bool:
    if isinstance(prompt, str):
        return len(prompt) < LONG_PROMPT
    return (
        isinstance(prompt, tuple | list)
        and len(prompt) < LONG_PROMPT
        and not (prompt and isinstance(prompt[0], Mapping))
    )


def _usage(finished: Finished) -> Usage:
    return Usage(finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens)


def _timing(run: _Run, finished: Finished | None) -> Timing:
    """Where the time went so far; the worker's own share is known at the end only."""
    now_s = time.monotonic()
    queue_s = run.granted_at_s - run.started_at_s + (finished.queue_s if finished else 0.0)
    prefill_s = finished.prefill_s if finished else now_s - run.granted_at_s
    return Timing(
        queue_s=queue_s, prefill_s=prefill_s, first_token_s=queue_s + prefill_s, total_s=now_s - run.started_at_s
    )


def _result(
    run: _Run, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...], finished: Finished
) -> GenerationResult:
    return GenerationResult(
        request_id=run.request.request_id,
        text=text,
        token_ids=token_ids,
        finish_reason=finished.reason,
        usage=_usage(finished),
        timing=_timing(run, finished),
        worker_id=run.worker_id,
        attempts=run.attempt,
        seed=run.request.seed,
        logprobs=logprobs,
    )
