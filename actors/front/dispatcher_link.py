"""A front's link to the dispatcher: admissions and releases out in batches, decisions back.

An admission that can be decided at once is answered by the call that carries it; all later decisions come on one
stream. The link outlives the dispatcher's restarts and broken streams: it is opened again, and what is undecided is
asked again. While it is not open nothing is sent, since a dispatcher that hears the end of a stream forgets what the
front had waiting, and one that restarts has forgotten everything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError

from actors.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ExlpoolError,
    InvalidRequest,
    NoHealthyWorker,
    Overloaded,
    PoolClosed,
    first_line,
)
from actors.front.batching import TurnBatch
from actors.front.place import MAX_BLAMED, Place
from actors.messages import (
    Admission,
    DispatcherNews,
    Grant,
    PoolLimits,
    Refusal,
    RefusalReason,
    Release,
    Revocation,
    WorkerLimits,
)
from actors.pool_names import closed_words
from actors.ray_session import RaySession
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

RECONNECT_INTERVAL_S = 0.2
SILENCE_S = 30.0
"""A dispatcher says something at least every few seconds (`actors.dispatcher.decisions`). One that has said nothing for
so long is taken for lost."""
UNREACHABLE_AFTER_S = 60.0
"""Requests wait so long for a dispatcher that is lost; then they fail, and later ones fail at once until it is back."""

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
    """Open from the start of its first stream until `shut_down`, or until the dispatcher is gone for good."""

    def __init__(
        self,
        front_id: str,
        dispatcher: Any,
        pool: str = "",
        *,
        on_limits: Callable[[tuple[WorkerLimits, ...]], object] = lambda _: None,
    ) -> None:
        """`pool` is its name; `on_limits` hears of what its workers take, whenever another one is up."""
        self._on_limits = on_limits
        self._front_id = front_id
        self._dispatcher = dispatcher
        self._pool = pool
        self._session = RaySession()
        self._supervisor = Supervisor(f"link of {front_id} to the dispatcher")
        self._places: dict[str, Place] = {}
        """By request id: every place that is asked for or granted and not released."""
        self._messages: TurnBatch[Admission | Release] = TurnBatch(
            self._supervisor, self._send, on_failure=self._send_failed
        )
        self.listening = False
        """The dispatcher hears this front, as far as anybody knows."""
        self._lost_at_s: float | None = time.monotonic()
        self._closed: PoolClosed | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._open_stream()

    def ask(self, admission: Admission) -> Place:
        """Ask for a place. It has to be released, whatever comes of it.

        :raises PoolClosed: the pool is closed or gone.
        :raises NoHealthyWorker: the dispatcher has not answered for long.
        """
        if self._closed is not None:
            raise self._closed
        if self._unreachable():
            raise self._not_reached()
        place = self._places[admission.request_id] = Place(admission, self._release)
        self._messages.add(admission)
        return place

    def break_stream(self) -> None:
        """Cancel the stream that is being read, as a broken connection would. For tests of what follows."""
        if self._reading is not None:
            self._reading.cancel()

    def shut_down(self) -> None:
        """Close without waiting; what is undecided fails with `PoolClosed`."""
        self._fail_for_good(PoolClosed("The pool was closed."))
        self._supervisor.shut_down()

    async def wait_closed(self) -> None:
        await self._supervisor.wait_closed()

    # Messages.

    def _release(self, place: Place) -> None:
        admission = place.admission
        if self._places.get(admission.request_id) is place:
            del self._places[admission.request_id]
        if not place.over and self._closed is None:
            self._messages.add(Release(admission.request_id, admission.attempt))

    async def _send(self, messages: tuple[Admission | Release, ...]) -> None:
        if not self.listening:
            return  # what is undecided is asked again as soon as the dispatcher listens
        wanted = tuple(message for message in messages if isinstance(message, Release) or self._is_undecided(message))
        if not wanted:
            return
        for message in wanted:
            if isinstance(message, Admission):
                self._places[message.request_id].note_asked()
        try:
            self._take_in(await self._session.call(self._dispatcher.place_requests, self._front_id, wanted))
        except RayTaskError as error:  # the dispatcher lives, and has taken offence at something here
            logger.error("The dispatcher failed at what it was asked: %s", error)
            failure = ExlpoolError("The dispatcher failed at this request; the log says why.")
            for message in wanted:
                place = self._places.get(message.request_id)
                if isinstance(message, Admission) and place is not None and place.admission is message:
                    place.refuse(failure)

    def _send_failed(self, failure: BaseException) -> None:
        """The stream and the calls are one link: when a call fails the stream is opened anew."""
        logger.warning("A call to the dispatcher failed: %s", first_line(failure))
        self.break_stream()

    def _is_undecided(self, admission: Admission) -> bool:
        place = self._places.get(admission.request_id)
        return place is not None and place.admission is admission and place.undecided

    # The stream.

    def _open_stream(self) -> None:
        self._reopening = None
        self._reading = self._supervisor.start("read", self._read(), on_end=self._stream_ended)

    async def _read(self) -> None:
        """Read one stream; it returns when the dispatcher closes it, which is the end of the pool."""
        stream = self._session.open_stream(self._dispatcher.decisions, self._front_id)
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    decisions: tuple[DispatcherNews, ...] = await (await anext(stream))
                if not self.listening:
                    self._resume()
                self._take_in(decisions)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TimeoutError(f"nothing was heard for {SILENCE_S:g} s") from None
        finally:
            self._session.cancel_stream(stream)

    def _stream_ended(self, failure: BaseException | None) -> None:
        """The one place that hears of a stream's end, whatever ended it."""
        if failure is None:
            self._fail_for_good(PoolClosed(closed_words(self._pool)))
            return
        if isinstance(failure, ActorDiedError):
            gone = closed_words(self._pool, "The pool's dispatcher is gone; start the pool again.")
            self._fail_for_good(PoolClosed(gone))
            return
        if isinstance(failure, PoolClosed):  # the connection to Ray has ended
            self._fail_for_good(failure)
            return
        if self.listening or self._lost_at_s is None:
            if not isinstance(failure, asyncio.CancelledError):  # the event loop ends, or who broke it has said why
                logger.warning("The dispatcher is lost and looked for again: %s", first_line(failure))
            self._lost_at_s = time.monotonic()
        if self.listening:
            for place in self._places.values():
                if place.undecided:
                    place.note_loss()
        self.listening = False
        self._messages.clear()
        if self._unreachable():
            for place in list(self._places.values()):
                place.refuse(self._not_reached())
        self._reopening = asyncio.get_running_loop().call_later(RECONNECT_INTERVAL_S, self._open_stream)

    def _resume(self) -> None:
        """The dispatcher listens (again): ask for everything that is undecided."""
        self.listening, self._lost_at_s = True, None
        for place in list(self._places.values()):
            if place.undecided and place.blamed >= MAX_BLAMED:
                place.refuse(NoHealthyWorker(f"The dispatcher was lost {place.blamed} times under this request."))
            elif place.undecided:
                place.grow_older()
                self._messages.add(place.admission)

    def _take_in(self, decisions: tuple[DispatcherNews, ...]) -> None:
        """Hand decisions to their places. The cases:

        - a refusal ends the place of that request, unless it was granted meanwhile: then it is of an older attempt;
        - a grant of the attempt that is asked for is taken, and one that is told twice is the same grant;
        - a grant that nobody here waits for was given up while it was on its way: it is released, or the dispatcher
          would keep its pages for nobody;
        - a revocation of an attempt that is over, or of an older one, comes too late to matter.
        """
        for decision in decisions:
            if isinstance(decision, PoolLimits):
                self._on_limits(decision.limits)
                continue
            place = self._places.get(decision.request_id)
            match decision:
                case Refusal():
                    if place is not None and place.undecided:
                        place.refuse(refusal_error(decision))
                case Grant():
                    if place is not None and place.admission.attempt == decision.attempt:
                        place.grant(decision)
                    else:
                        self._messages.add(Release(decision.request_id, decision.attempt))
                case Revocation():
                    if place is not None and place.admission.attempt == decision.attempt:
                        place.revoke(decision.reason, moved=decision.moved)

    def _unreachable(self) -> bool:
        return self._lost_at_s is not None and time.monotonic() - self._lost_at_s > UNREACHABLE_AFTER_S

    def _not_reached(self) -> NoHealthyWorker:
        return NoHealthyWorker(
            f"The pool's dispatcher has not answered for {UNREACHABLE_AFTER_S:g} s: its node may be down.",
            retry_after_s=RECONNECT_INTERVAL_S,
        )

    def _fail_for_good(self, error: PoolClosed) -> None:
        self._closed = error
        self.listening = False
        if self._reopening is not None:
            self._reopening.cancel()
        for place in list(self._places.values()):
            if place.undecided:
                place.refuse(error)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self.listening else "opening"
        return f"<DispatcherLink of {self._front_id}: {state}, {len(self._places)} places>"


def refusal_error(refusal: Refusal) -> ExlpoolError:
    """A refusal as the exception that callers see."""
    return _ERRORS[refusal.reason](refusal.message, retry_after_s=refusal.retry_after_s)
