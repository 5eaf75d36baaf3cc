"""A front's link to the dispatcher: admissions out in batches, grants and refusals back.

An admission that can be decided at once is answered by the call that carries it; all later decisions come on one
stream. The link outlives the dispatcher's restarts: what is undecided is asked again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from actors.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ExlpoolError,
    InvalidRequest,
    NoHealthyWorker,
    Overloaded,
    PoolClosed,
)
from actors.front.batching import TurnBatch, link_task
from actors.messages import Admission, Grant, Refusal, RefusalReason
from actors.ray_session import STREAM_BACKPRESSURE, cancel_stream

RECONNECT_INTERVAL_S = 0.2

_ERRORS: dict[RefusalReason, type[ExlpoolError]] = {
    RefusalReason.OVERSIZED: ContextLengthExceeded,
    RefusalReason.QUEUE_FULL: Overloaded,
    RefusalReason.WAIT_TOO_LONG: Overloaded,
    RefusalReason.NO_WORKER: NoHealthyWorker,
    RefusalReason.DEADLINE: DeadlineExceeded,
    RefusalReason.DUPLICATE: InvalidRequest,
    RefusalReason.INVALID: InvalidRequest,
}


class DispatcherLink:
    def __init__(self, front_id: str, dispatcher: Any) -> None:
        self._front_id = front_id
        self._dispatcher = dispatcher
        self._undecided: dict[str, tuple[Admission, asyncio.Future[Grant]]] = {}
        self._admissions: TurnBatch[Admission] = TurnBatch(self._send)
        self._cancellations: TurnBatch[tuple[str, int]] = TurnBatch(self._send_cancel)
        self._listening = asyncio.Event()
        self._closed: PoolClosed | None = None
        self._reader = link_task(self._read())

    async def place(self, admission: Admission) -> Grant:
        """Wait for a place. Cancelling the wait takes the request out of the queue.

        :raises ExlpoolError: the refusal, as the type that fits.
        """
        if self._closed is not None:
            raise self._closed
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._undecided[admission.request_id] = admission, future
        self._admissions.add(admission)
        try:
            return await future
        except asyncio.CancelledError:
            self.release(admission.request_id, admission.attempt)
            raise
        finally:
            self._undecided.pop(admission.request_id, None)

    def release(self, request_id: str, attempt: int) -> None:
        """This attempt needs no place any more: it was given up, in the queue or after a grant. A later attempt of
        the same request is not touched."""
        if self._closed is None:
            self._cancellations.add((request_id, attempt))

    def shut_down(self) -> None:
        self._fail(PoolClosed("The pool was closed."))
        self._reader.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _send(self, admissions: tuple[Admission, ...]) -> None:
        if not self._listening.is_set():
            return  # asked again as soon as the dispatcher listens
        wanted = tuple(admission for admission in admissions if admission.request_id in self._undecided)
        if not wanted:
            return
        try:
            self._decide(await self._dispatcher.admit.remote(self._front_id, wanted))
        except RayActorError:
            return  # the reader sees the same, and asks again for all that is undecided
        except RayTaskError as error:
            failure: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            for admission in wanted:
                self._reject(admission.request_id, failure)

    async def _send_cancel(self, attempts: tuple[tuple[str, int], ...]) -> None:
        try:
            await self._dispatcher.cancel.remote(self._front_id, attempts)
        except RayActorError:
            return  # a dispatcher that restarts has forgotten them

    async def _read(self) -> None:
        while True:
            stream = self._dispatcher.decisions.options(
                num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE
            ).remote(self._front_id)
            try:
                async for reference in stream:
                    decisions = await reference
                    if not self._listening.is_set():
                        self._resume()
                    self._decide(decisions)
                self._fail(PoolClosed("The pool was closed."))
                return
            except ActorDiedError:
                self._fail(PoolClosed("The pool's dispatcher is gone; start the pool again."))
                return
            except (RayActorError, RayTaskError):
                self._listening.clear()
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            finally:
                cancel_stream(stream)

    def _resume(self) -> None:
        """The dispatcher listens (again): ask for everything that is undecided."""
        self._listening.set()
        for admission, _ in self._undecided.values():
            self._admissions.add(admission)

    def _decide(self, decisions: tuple[Grant | Refusal, ...]) -> None:
        for decision in decisions:
            entry = self._undecided.get(decision.request_id)
            if isinstance(decision, Refusal):
                self._reject(decision.request_id, refusal_error(decision))
            elif entry is not None and entry[0].attempt == decision.attempt and not entry[1].done():
                entry[1].set_result(decision)
            else:
                self.release(decision.request_id, decision.attempt)

    def _reject(self, request_id: str, error: Exception) -> None:
        entry = self._undecided.get(request_id)
        if entry is not None and not entry[1].done():
            entry[1].set_exception(error)

    def _fail(self, error: PoolClosed) -> None:
        self._closed = error
        for _, future in self._undecided.values():
            if not future.done():
                future.set_exception(error)


def refusal_error(refusal: Refusal) -> ExlpoolError:
    """A refusal as the exception that callers see."""
    return _ERRORS[refusal.reason](refusal.message, retry_after_s=refusal.retry_after_s)
