"""A dispatcher and a worker without Ray that keep a request at one stage of its way, and books of what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum

from ray.exceptions import ActorUnavailableError

from actors.builtin_model import builtin_model_path
from actors.messages import (
    Admission,
    Cancellation,
    Decision,
    Finished,
    GenerationRequest,
    Grant,
    Listening,
    Release,
    StepOutput,
    Welcome,
    WorkerCommand,
)
from actors.results import FinishReason
from tests.front.actors import LIMITS, Method

LIFE = "slot#1"


class Stage(StrEnum):
    QUEUED = "it waits in the queue"
    GRANTED = "it has a place, and its worker does not answer"
    PREFILL = "its prompt is computed"
    DECODING = "it is generated"
    MOVING = "its worker has died, and it waits for another place"
    DISPATCHER_AWAY = "it waits, and the dispatcher is lost"
    RUNS_WITHOUT_DISPATCHER = "it is generated, and the dispatcher is lost"


_WAITS = frozenset({Stage.QUEUED, Stage.DISPATCHER_AWAY})
_DISPATCHER_GOES = frozenset({Stage.DISPATCHER_AWAY, Stage.RUNS_WITHOUT_DISPATCHER})
_EMITS = frozenset({Stage.DECODING, Stage.RUNS_WITHOUT_DISPATCHER})


class StagedWorker:
    """Holds attempts by ticket until they are cancelled, or the stream that they came by ends."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.held: dict[int, str] = {}
        self.outputs = Method(self._outputs)
        self.take_commands = Method(self._take_commands)
        self._news: asyncio.Queue[StepOutput | None] = asyncio.Queue()

    async def _outputs(self, stream_id: str) -> AsyncIterator[Listening | StepOutput]:
        if self._stage is Stage.GRANTED:
            await asyncio.Event().wait()
        yield Listening(LIFE)
        while (news := await self._news.get()) is not None:
            yield news
        self.held.clear()
        raise ActorUnavailableError("it died", None)

    async def _take_commands(self, stream_id: str, commands: tuple[WorkerCommand, ...]) -> bool:
        for command in commands:
            match command:
                case GenerationRequest():
                    self.held[command.ticket] = command.request_id
                    if self._stage in _EMITS:
                        one = (command.ticket,)
                        self._news.put_nowait(StepOutput(tickets=one, texts=("a",), token_ids=((5,),)))
                    elif self._stage is Stage.MOVING:
                        self._news.put_nowait(None)
                case Cancellation(ticket):
                    if self.held.pop(ticket, None) is not None:
                        end = Finished(reason=FinishReason.CANCELLED, prompt_tokens=2, completion_tokens=0)
                        self._news.put_nowait(StepOutput(finished=((ticket, end),)))
        return True


class StagedDispatcher:
    """Knows attempts until they are released; a life of it that begins anew knows none."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.worker = StagedWorker(stage)
        self.known: dict[str, int] = {}
        self.lost = False
        self._back = asyncio.Event()
        self._lose = asyncio.Event()
        self.hello = Method(self._hello)
        self.decisions = Method(self._decisions)
        self.place_requests = Method(self._place_requests)

    @property
    def reached(self) -> bool:
        """Whether the one request has come to the stage."""
        match self._stage:
            case Stage.QUEUED:
                return bool(self.known)
            case Stage.GRANTED:
                return self.worker.outputs.calls > 0
            case Stage.MOVING:
                return 2 in self.known.values()
            case Stage.DISPATCHER_AWAY:
                return self.lost
            case Stage.RUNS_WITHOUT_DISPATCHER:
                return self.lost and bool(self.worker.held)
            case _:
                return bool(self.worker.held)

    def come_back(self) -> None:
        self._back.set()

    async def _hello(self) -> Welcome:
        return Welcome(
            workers={"slot": self.worker},
            limits=(LIMITS,),
            model_dir=str(builtin_model_path()),
            default_max_new_tokens=4,
        )

    async def _decisions(self, front_id: str) -> AsyncIterator[tuple[Decision, ...]]:
        if self.lost and not self._back.is_set():
            raise ActorUnavailableError("it is away", None)
        yield ()
        if self.lost:
            await asyncio.Event().wait()
        await self._lose.wait()
        self.lost = True
        self.known.clear()
        raise ActorUnavailableError("it died", None)

    async def _place_requests(self, front_id: str, messages: tuple[Admission | Release, ...]) -> tuple[Decision, ...]:
        granted: list[Decision] = []
        for message in messages:
            match message:
                case Release(request_id, attempt):
                    if self.known.get(request_id, 0) <= attempt:
                        self.known.pop(request_id, None)
                case Admission():
                    self.known[message.request_id] = message.attempt
                    if self._stage not in _WAITS and message.attempt == 1:
                        granted.append(Grant(message.request_id, 1, LIFE))
        if self._stage in _DISPATCHER_GOES:
            asyncio.get_running_loop().call_later(0.01, self._lose.set)
        return tuple(granted)
