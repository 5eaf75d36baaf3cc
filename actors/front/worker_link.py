"""A front's link to one worker: one stream of output in, batches of attempts and cancellations out, in order.

The link is at any moment one of these, and every change says what becomes of the attempts:

- opening: a stream was asked for and has not answered. Attempts wait in `start`, no longer than OPEN_TIMEOUT_S, and
  for a link that was broken before no longer than REOPEN_TIMEOUT_S.
- open: the worker of this life listens. Attempts are submitted and their output comes.
- broken: the stream ended, however it did, or a call failed. Every attempt that was submitted is told that it is lost
  (the worker cancels it when it sees the end of the stream), and the link is opening again after a pause.
- over: this life of the worker has ended for certain (its actor is dead, or another life answers), or the link was
  shut down. Attempts are told, and so is whoever comes later.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

from ray.exceptions import ActorDiedError

from actors.errors import PoolClosed, first_line
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.batching import TurnBatch
from actors.messages import Cancellation, GenerationRequest, Listening, StepOutput, WorkerCommand
from actors.ray_failures import plain_reason
from actors.ray_session import RaySession
from actors.supervisor import Supervisor

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 30.0
"""For a stream to answer before another one is asked for, and for an attempt to wait for that."""
REOPEN_TIMEOUT_S = 2.0
"""For an attempt to wait for a link that is broken: enough for one that broke on the way to a worker that is well. Who
waited longer on a node that has died had all of its pause from here."""
SILENCE_S = 30.0
"""A worker says something every few seconds (`actors.worker.output_stream`). A stream that has said nothing for so long
is broken."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Before a broken stream is opened again; doubled each time it fails to open."""


_stream_numbers = itertools.count(1)


class _LifeOver(Exception):
    """The worker's life that this link belongs to has ended."""


class WorkerLink:
    """Made for one life of a worker (`worker_id`), useless after that life: `over` is True then."""

    def __init__(self, front_id: str, worker_id: str, handle: Any) -> None:
        self.worker_id = worker_id
        self.over = False
        self.node_id = ""
        """Of the node that the worker runs on, once it has said so."""
        self._front_id = front_id
        self._handle = handle
        self._session = RaySession()
        self._supervisor = Supervisor(f"link to {worker_id}")
        self._outputs: dict[int, AttemptOutput] = {}
        """By ticket: what was submitted and has not ended."""
        self._given_up: set[int] = set()
        """Tickets whose cancellation is sent, or about to be, and whose end has not come."""
        self._commands: TurnBatch[WorkerCommand] = TurnBatch(self._supervisor, self._send, on_failure=self._send_failed)
        self._settled = asyncio.Event()
        """Set while the link is open, and once it is over."""
        self._why = ""
        self._stream_id = ""
        self._pause_s = FIRST_PAUSE_S
        self._reading: asyncio.Task[None] | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._open_stream()

    @property
    def open(self) -> bool:
        return self._settled.is_set() and not self.over

    @property
    def broken(self) -> bool:
        """It was tried, and cannot be used at the moment."""
        return not self.open and bool(self._why)

    async def start(self, request: GenerationRequest, output: AttemptOutput) -> None:
        """Submit an attempt once the link is open; its output goes to `output` until it has ended or is cancelled.

        :raises AttemptLost: the link cannot be opened in time, or is over; or the place was taken back meanwhile.
        """
        while not self._settled.is_set():  # it may have opened and broken again before this goes on
            await self._until_settled(output)
        if self.over:
            raise AttemptLost(self._why)
        self._outputs[request.ticket] = output
        self._commands.add(request)

    async def _until_settled(self, output: AttemptOutput) -> None:
        """:raises AttemptLost: the link cannot be opened in time, or nothing more is wanted of it for this output."""
        patience_s = REOPEN_TIMEOUT_S if self._why else OPEN_TIMEOUT_S
        loop = asyncio.get_running_loop()
        settled, lost = loop.create_task(self._settled.wait()), loop.create_task(output.take())
        try:
            await asyncio.wait({settled, lost}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()  # raises: nothing but a loss can come to what was not submitted
            if not settled.done():
                raise AttemptLost(self._why or f"worker {self.worker_id} did not answer in {patience_s:g} s")
        finally:
            settled.cancel()
            lost.cancel()

    def cancel(self, ticket: int) -> None:
        """Give an attempt up: nothing more reaches its output, and the engine ends it before its next step."""
        if self._outputs.pop(ticket, None) is not None:
            self._give_up(ticket)

    def break_stream(self) -> None:
        """Cancel the stream that is being read, as a broken connection would. For tests of what follows."""
        if self._reading is not None:
            self._reading.cancel()

    def shut_down(self) -> None:
        """Close without waiting: attempts that run are lost, and the worker cancels them when it sees this end."""
        self._end("the link was closed")

    async def wait_closed(self) -> None:
        await self._supervisor.wait_closed()

    # Commands.

    def _give_up(self, ticket: int) -> None:
        self._given_up.add(ticket)
        self._commands.add(Cancellation(ticket))

    async def _send(self, commands: tuple[WorkerCommand, ...]) -> None:
        """Submit and cancel in one call. What was given up before it was sent is left out, with its cancellation."""
        skipped = {c.ticket for c in commands if isinstance(c, GenerationRequest) and c.ticket not in self._outputs}
        self._given_up -= skipped
        wanted = tuple(command for command in commands if command.ticket not in skipped)
        if not wanted or not self.open:
            return  # a stream that ended has taken its attempts with it, here and at the worker
        stream_id = self._stream_id
        accepted = await self._session.call(self._handle.take_commands, stream_id, wanted)
        if not accepted and stream_id == self._stream_id:
            raise AttemptLost(f"worker {self.worker_id} does not know this link any more")
        for command in wanted:
            output = self._outputs.get(command.ticket)
            if accepted and output is not None:
                output.taken_up = True

    def _send_failed(self, failure: BaseException) -> None:
        """The stream and the calls are one link: when a call fails the stream is opened anew."""
        self._break(failure)
        self.break_stream()

    # The stream.

    def _open_stream(self) -> None:
        """Ask for a stream, with an id of its own, so that nothing of an older one is taken for this one's.

        Before its number the id names the link: a worker ends older streams of the same link, and must not end those
        of the link to its present life when that to an earlier one, which does not know yet, is opened again.
        """
        self._stream_id = f"{self._front_id}/{self.worker_id}/{next(_stream_numbers)}"
        self._reopening = None
        self._reading = self._supervisor.start("read", self._read(), on_end=self._stream_ended)

    async def _read(self) -> None:
        """Read one stream until it ends or breaks.

        :raises _LifeOver: another life of the worker answers.
        """
        stream = self._session.open_stream(self._handle.outputs, self._stream_id)
        try:
            hello = await self._first_message(stream)
            if hello.worker_id != self.worker_id:
                raise _LifeOver(f"worker {self.worker_id} was restarted")
            self.node_id = hello.node_id
            self._opened()
            while True:
                async with asyncio.timeout(SILENCE_S):
                    output: StepOutput = await (await anext(stream))
                self._distribute(output)
        except StopAsyncIteration:
            pass
        except TimeoutError:
            raise TimeoutError("nothing was heard for too long") from None
        finally:
            self._session.cancel_stream(stream)

    async def _first_message(self, stream: Any) -> Listening:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            hello: Listening = await (await anext(stream))
        return hello

    def _opened(self) -> None:
        self._pause_s, self._why = FIRST_PAUSE_S, ""
        self._settled.set()

    def _stream_ended(self, failure: BaseException | None) -> None:
        """The one place that hears of a stream's end, whatever ended it."""
        if isinstance(failure, _LifeOver | PoolClosed):  # restarted, or there is no connection to Ray any more
            self._end(first_line(failure))
            return
        if isinstance(failure, ActorDiedError):
            logger.warning("Worker %s has ended for good: %s", self.worker_id, first_line(failure))
            self._end(f"worker {self.worker_id} has ended for good")
            return
        # Cancelled by `_send_failed`, which has said why, or with everything else on an event loop that ends.
        cancelled = isinstance(failure, asyncio.CancelledError)
        if not cancelled or not self._why:
            self._break(failure, quietly=cancelled)
        self._reopening = asyncio.get_running_loop().call_later(self._pause_s, self._open_stream)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _break(self, failure: BaseException | None, *, quietly: bool = False) -> None:
        """What Ray says of the failure goes to the log; the reason is for whoever made the requests."""
        if self.open and not quietly:
            told = "its stream ended" if failure is None else first_line(failure)
            logger.warning("The link to worker %s broke and is opened again: %s", self.worker_id, told)
        self._settled.clear()
        reason = "its stream ended" if failure is None else plain_reason(failure)
        self._lose_attempts(f"the link to worker {self.worker_id} broke: {reason}")

    def _end(self, reason: str) -> None:
        self.over = True
        self._lose_attempts(reason)
        self._settled.set()
        if self._reopening is not None:
            self._reopening.cancel()
        self._supervisor.shut_down()

    def _lose_attempts(self, reason: str) -> None:
        self._why = reason
        self._commands.clear()
        self._given_up.clear()
        outputs, self._outputs = self._outputs, {}
        for output in outputs.values():
            output.lose(reason)

    def _distribute(self, output: StepOutput) -> None:
        logprobs = output.logprobs or ((),) * len(output.tickets)
        outputs = self._outputs
        for ticket, text, token_ids, values in zip(
            output.tickets, output.texts, output.token_ids, logprobs, strict=True
        ):
            target = outputs.get(ticket)
            if target is not None:
                target.put(text, token_ids, values)
            elif ticket not in self._given_up:  # nobody here waits for it, so nobody else would ever cancel it
                self._give_up(ticket)
        for ticket, finished in output.finished:
            self._given_up.discard(ticket)
            target = outputs.pop(ticket, None)
            if target is not None:
                target.finish(finished)

    def __repr__(self) -> str:
        state = "over" if self.over else "open" if self.open else "broken" if self._why else "opening"
        return f"<WorkerLink to {self.worker_id}: {state}, stream {self._stream_id}, {len(self._outputs)} attempts>"
