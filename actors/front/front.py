"""The front: a request becomes a stream of deltas.

A front lives in the process of whoever wants text (a script, a Serve replica, the actor behind `pool.generate`), on
one asyncio event loop. It tokenises, asks the dispatcher for a place, reads tokens straight from the worker, and goes
elsewhere when a worker dies, behind the tokens that have come from it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError

from actors.errors import EngineFailure, Overloaded, PoolClosed
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.dispatcher_link import RECONNECT_INTERVAL_S, DispatcherLink
from actors.front.place import Place
from actors.front.prompt_directory import prompt_directory
from actors.front.run import Piece, Run
from actors.front.suspicion import endangered
from actors.front.worker_handles import WorkerHandles
from actors.front.worker_link import WorkerLink
from actors.messages import Finished, Welcome, WorkerLimits
from actors.ray_session import RaySession
from actors.request.checks import resolve_max_new_tokens
from actors.request.options import RequestOptions
from actors.request.prepare import prepare
from actors.request.prompt import Prompt, PromptEncoder
from actors.results import Delta, FinishReason, GenerationResult, TokenLogprobs
from actors.sampling import SamplingParams

LONG_PROMPT = 20_000
"""Texts of so many characters, and lists of so many ids, are prepared off the event loop, since they take it for more
than a few milliseconds. So are messages, whose template may do anything."""
GREETING_TIMEOUT_S = 60.0
PATIENCE_MIN_S, PATIENCE_MAX_S = 0.05, 5.0
DECISION_GRACE_S = 0.5
"""The dispatcher ends what waits longer than it may, within a tick of its clock, and knows why it had to wait. The
front gives up only when it has not heard that."""


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
        self._places = DispatcherLink(self.front_id, dispatcher, welcome.pool, on_limits=self._note_limits)
        self._links: dict[str, WorkerLink] = {}
        self._handles = WorkerHandles(welcome.pool, welcome.workers)
        self._next_ticket = 1
        self._closed = False

    @classmethod
    async def open(
        cls, dispatcher: Any, *, patient: bool, load_encoder: Callable[[str], PromptEncoder] = PromptEncoder.load
    ) -> Front:
        """Greet the dispatcher and wait until one of its workers can generate.

        `load_encoder` gives the encoder of a directory with a model's tokenizer, on another thread.
        :raises ExlpoolError: no worker could be loaded.
        """
        session = RaySession()
        welcome = await _greet(dispatcher, session)
        async with prompt_directory(welcome, session) as directory:
            encoder = await asyncio.to_thread(load_encoder, directory)
        return cls(dispatcher, welcome, encoder, patient=patient)

    @property
    def limits(self) -> tuple[WorkerLimits, ...]:
        """What the workers can take, as far as the dispatcher has told."""
        return self._welcome.limits

    def _note_limits(self, limits: tuple[WorkerLimits, ...]) -> None:
        """Another worker is up, which may take more than those before: so a pool whose GPUs differ in size."""
        self._welcome = replace(self._welcome, limits=limits)

    def max_new_tokens(self, prompt_tokens: int, params: SamplingParams) -> int:
        """How many tokens a request with such a prompt may generate.

        :raises ContextLengthExceeded: prompt and completion together fit no worker.
        """
        default = self._welcome.default_max_new_tokens
        return resolve_max_new_tokens(prompt_tokens, params, self._welcome.limits, default)

    @property
    def reachable(self) -> bool:
        """Whether a request could get through now as far as anybody here knows: the dispatcher hears this front, and
        not every worker that it has talked to is cut off from it."""
        links = [link for link in self._links.values() if not link.over]
        return self._places.listening and (not links or not all(link.broken for link in links))

    @property
    def under_way(self) -> int:
        """Requests that the dispatcher is asked to place, or that a worker has."""
        return len(self._places)

    def shut_down(self) -> None:
        """Close without waiting; must be called on the front's own event loop. What runs ends with `PoolClosed`."""
        self._closed = True
        self._places.shut_down()
        for link in self._links.values():
            link.shut_down()
        self._handles.shut_down()

    async def close(self) -> None:
        """Cancel everything that still runs; workers and dispatcher forget this front."""
        self.shut_down()
        await self._places.wait_closed()
        await asyncio.gather(*(link.wait_closed() for link in self._links.values()))

    async def generate(self, prompt: Prompt, options: RequestOptions) -> GenerationResult:
        """The whole completion: the deltas of a stream, joined.

        :raises ExlpoolError: the request is wrong, was refused, or failed.
        """
        run = await self._begin(prompt, options)
        texts: list[str] = []
        logprobs: list[TokenLogprobs] = []
        async with aclosing(self._pieces(run, whole=True)) as pieces:
            async for text, _, values, finished in pieces:
                texts.append(text)
                logprobs += values
                if finished is not None:
                    return run.result("".join(texts), tuple(logprobs), finished)
        raise AssertionError("the last piece has the end")

    async def stream(self, prompt: Prompt, options: RequestOptions) -> AsyncGenerator[Delta, None]:
        """The completion as it is made; the last delta has `finish_reason` and `usage`. Closing it cancels.

        :raises ExlpoolError: the request is wrong, was refused, or failed.
        """
        run = await self._begin(prompt, options)
        timed = False
        async with aclosing(self._pieces(run, whole=False)) as pieces:
            async for text, token_ids, logprobs, finished in pieces:
                timing, timed = run.timing(finished) if finished or not timed else None, True
                yield Delta(
                    text=text,
                    token_ids=token_ids,
                    logprobs=logprobs,
                    finish_reason=finished.reason if finished else None,
                    usage=run.usage(finished) if finished else None,
                    timing=timing,
                )

    async def _begin(self, prompt: Prompt, options: RequestOptions) -> Run:
        started_at_s = time.monotonic()
        deadline_s = None if options.timeout_s is None else started_at_s + options.timeout_s - options.spent_s
        arguments = (self.encoder, prompt, options, self._welcome.limits, self._welcome.default_max_new_tokens)
        if _is_quick(prompt):
            request = prepare(*arguments)
        else:
            request = await asyncio.to_thread(prepare, *arguments)
        return Run(request, started_at_s, deadline_s)

    async def _pieces(self, run: Run, *, whole: bool) -> AsyncGenerator[Piece, None]:
        """Run an attempt and pass on what its worker makes; when it is lost, run another one that goes on from there.
        One that is refused is asked for again, if the front is patient or the request has begun."""
        run.begin_attempt()
        while True:
            try:
                async with aclosing(self._attempt(run, whole=whole)) as attempt:
                    async for piece in attempt:
                        run.note_piece(piece[1])
                        yield piece
                return
            except Overloaded as refusal:
                if not self._patient and not run.shown:
                    raise
                pause_s = min(max(refusal.retry_after_s or 0.0, PATIENCE_MIN_S), PATIENCE_MAX_S)
            except (AttemptLost, EngineFailure) as error:
                if self._closed:
                    raise PoolClosed("The pool was closed before the request's end.") from None
                pause_s = run.pause_after(error)
                if isinstance(error, EngineFailure):
                    run.excluded |= {run.worker_id}
                elif not error.moved:
                    nodes = {name: link.node_id for name, link in self._links.items() if not link.over}
                    run.excluded |= endangered(run.worker_id, nodes)
                run.begin_attempt()
            if pause_s:
                await run.within(asyncio.sleep(pause_s))

    async def _attempt(self, run: Run, *, whole: bool) -> AsyncGenerator[Piece, None]:
        """One attempt, from asking for its place to its end.

        Whatever takes the caller out of here (an end, an error, a cancellation at any await, a stream that is closed)
        goes through the one `finally`: it tells the worker, unless the worker has told the end, and gives the place
        back.
        """
        place = self._places.ask(run.admission())
        link: WorkerLink | None = None
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        finished: Finished | None = None
        try:
            grant = await run.within(place.granted(), grace_s=DECISION_GRACE_S)
            run.worker_id, run.granted_at_s = grant.worker_id, time.monotonic()
            output = AttemptOutput(grant.worker_id, whole=whole)
            place.use(output)
            link = await run.within(self._link(grant.worker_id))
            await run.within(link.start(run.generation_request(ticket, whole=whole), output))
            while finished is None:
                text, token_ids, logprobs, finished = await run.within(output.take())
                if finished is None or finished.reason is not FinishReason.ERROR:
                    yield text, token_ids, logprobs, finished
                    continue
                if text or token_ids:
                    yield text, token_ids, logprobs, None
                raise finished.error or EngineFailure("The engine failed without a reason.")
        finally:
            self._give_back(place, link, ticket, finished)

    def _give_back(self, place: Place, link: WorkerLink | None, ticket: int, finished: Finished | None) -> None:
        if finished is not None:
            place.finish()
        elif link is not None:
            link.cancel(ticket)
        place.release()

    async def _link(self, worker_id: str) -> WorkerLink:
        """The link to this life of a worker.

        Grants come on two ways, so one for an earlier life may arrive after one for the next: each has a link of its
        own, and that to a life which has ended finds out by itself.

        :raises AttemptLost: the worker has left the pool.
        """
        link = self._links.get(worker_id)
        if link is not None and not link.over:
            return link
        handle = await self._handles.of(worker_id)
        link = self._links.get(worker_id)  # others may have waited for the same handle
        if link is None or link.over:
            self._links = {name: other for name, other in self._links.items() if not other.over}
            link = self._links[worker_id] = WorkerLink(self.front_id, worker_id, handle)
            self._handles.keep_only(self._links)
        return link

    def __repr__(self) -> str:
        state = "closed" if self._closed else "reachable" if self.reachable else "cut off"
        return f"<Front {self.front_id}: {state}, {self._places!r}, links: {list(self._links.values())}>"


async def _greet(dispatcher: Any, session: RaySession) -> Welcome:
    """Greet a dispatcher, through a restart of it if need be.

    :raises PoolClosed: it is gone, or does not come back.
    """
    deadline_s = time.monotonic() + GREETING_TIMEOUT_S
    while True:
        try:
            welcome: Welcome = await session.call(dispatcher.hello)
        except ActorUnavailableError:
            if time.monotonic() > deadline_s:
                raise PoolClosed(f"The dispatcher did not come back within {GREETING_TIMEOUT_S:g} s.") from None
            await asyncio.sleep(RECONNECT_INTERVAL_S)
        except ActorDiedError:
            raise PoolClosed("The pool's dispatcher is gone; start the pool again.") from None
        else:
            return welcome


def _is_quick(prompt: Prompt) -> bool:
    if isinstance(prompt, str):
        return len(prompt) < LONG_PROMPT
    return (
        isinstance(prompt, tuple | list)
        and len(prompt) < LONG_PROMPT
        and not (prompt and isinstance(prompt[0], Mapping))
    )
