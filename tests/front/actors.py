"""A dispatcher and workers without Ray, as a front sees them: handles whose methods can be called and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields, replace
from typing import Any

from actors.builtin_model import builtin_model_path
from actors.messages import (
    Admission,
    Decision,
    Finished,
    GenerationRequest,
    Grant,
    Listening,
    Refusal,
    Release,
    StepOutput,
    Welcome,
    WorkerCommand,
    WorkerLimits,
)
from actors.results import FinishReason
from actors.sampling import SamplingParams

LIMITS = WorkerLimits(
    engine="fake",
    model="fake",
    context_tokens=4096,
    total_pages=64,
    max_batch_size=8,
    vocab_size=1024,
    eos_token_ids=(0,),
    supported_parameters=frozenset(field.name for field in fields(SamplingParams)),
)


class Method:
    """`handle.method.remote(...)`, and `.options(...).remote(...)` of one that streams. Notes its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls = 0

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        self.calls += 1
        answer = self._function(*arguments)
        return _references(answer) if isinstance(answer, AsyncIterator) else answer


async def _references(items: AsyncIterator[Any]) -> AsyncIterator[Awaitable[Any]]:
    async for item in items:
        reference = asyncio.get_running_loop().create_future()
        reference.set_result(item)
        yield reference


class FakeWorker:
    """The process that answers at a worker's handle: life after life, each with what goes wrong in it."""

    def __init__(self, life: str) -> None:
        self.life = life
        self.failure: Exception | None = None
        """What a stream breaks with, after the first text of an attempt; while it is set no attempt ends."""
        self.failures = 1_000_000
        """How often it breaks, before all is well."""
        self.engine_error: Exception | None = None
        """What the engine fails with, as often, instead of a stream: the same message brings a last token."""
        self.requests: list[GenerationRequest] = []
        self.outputs = Method(self._outputs)
        self.take_commands = Method(self._take_commands)
        self._news: asyncio.Queue[StepOutput] = asyncio.Queue()

    async def _outputs(self, stream_id: str) -> AsyncIterator[Listening | StepOutput]:
        yield Listening(self.life)
        while True:
            yield await self._news.get()
            if self.failure is not None:
                failure, self.failures = self.failure, self.failures - 1
                self.failure = failure if self.failures else None
                raise failure

    async def _take_commands(self, stream_id: str, commands: tuple[WorkerCommand, ...]) -> bool:
        for command in commands:
            if isinstance(command, GenerationRequest):
                self.requests.append(command)
                token_id = 5 + command.resumed_tokens
                output = StepOutput(
                    tickets=(command.ticket,),
                    texts=("abcdefgh"[command.resumed_tokens],),
                    token_ids=((token_id,),),
                    finished=self._end_of(command),
                )
                self._news.put_nowait(output)
        return True

    def _end_of(self, command: GenerationRequest) -> tuple[tuple[int, Finished], ...]:
        if self.failure is not None:
            return ()
        if self.engine_error is None:
            end = Finished(reason=FinishReason.LENGTH, prompt_tokens=len(command.token_ids), completion_tokens=1)
            return ((command.ticket, end),)
        end = Finished(
            reason=FinishReason.ERROR,
            prompt_tokens=len(command.token_ids),
            completion_tokens=1,
            error=self.engine_error,
        )
        self.failures -= 1
        if not self.failures:
            self.engine_error = None
        return ((command.ticket, end),)


class FakeDispatcher:
    """Grants every request at once, on the workers of `lives`, one after the other, and the last one from then on."""

    def __init__(self, worker: FakeWorker, lives: list[str]) -> None:
        self._worker = worker
        self._lives = lives
        self.admissions: list[Admission] = []
        self.refusals: list[Refusal] = []
        """Told, one after the other, to attempts after the first, instead of a grant."""
        self.hello = Method(self._hello)
        self.decisions = Method(self._decisions)
        self.place_requests = Method(self._place_requests)

    async def _hello(self) -> Welcome:
        return Welcome(
            workers={"slot": self._worker},
            limits=(LIMITS,),
            model_dir=str(builtin_model_path()),
            default_max_new_tokens=4,
        )

    async def _decisions(self, front_id: str) -> AsyncIterator[tuple[Decision, ...]]:
        yield ()
        await asyncio.Event().wait()

    async def _place_requests(self, front_id: str, messages: tuple[Admission | Release, ...]) -> tuple[Decision, ...]:
        return tuple(self._granted(message) for message in messages if isinstance(message, Admission))

    def _granted(self, admission: Admission) -> Decision:
        """The same grant as before for what is asked again."""
        if admission.attempt > 1 and self.refusals:
            return replace(self.refusals.pop(0), request_id=admission.request_id)
        if admission not in self.admissions:
            self.admissions.append(admission)
            if len(self.admissions) > 1 and len(self._lives) > 1:
                self._lives.pop(0)
        return Grant(admission.request_id, admission.attempt, self._lives[0])
