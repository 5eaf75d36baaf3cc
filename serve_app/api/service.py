"""Requests to generate, from the body to the last byte: the same for chats and plain completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from actors.errors import ExlpoolError
from serve_app.api.answer import Answer
from serve_app.api.deadline import Deadline, note_first_byte
from serve_app.api.disconnect import ClientGone, UntilClientGone
from serve_app.api.generation import most_tokens, run_whole, stream
from serve_app.api.options import own_names
from serve_app.api.parsing import parse_body
from serve_app.api.schemas.chat import ChatCompletionRequest
from serve_app.api.schemas.common import GenerationFields
from serve_app.api.schemas.completions import CompletionRequest
from serve_app.api.sse import DONE, EventStream
from serve_app.api.timing import timing_headers
from serve_app.api.usage import usage_model
from serve_app.caller import Caller, caller_of
from serve_app.config import ApiLimits
from serve_app.metrics.observed_request import CLIENT_GONE_STATUS, ObservedRequest
from serve_app.metrics.observer import Observer
from serve_app.metrics.usage import UsageSum
from serve_app.models.served import Models, ServedModel

Body = TypeVar("Body", ChatCompletionRequest, CompletionRequest)
Prepare = Callable[[ServedModel, Body, int, Caller, ApiLimits], Awaitable[Answer]]


class Service:
    """What the generation routes call."""

    def __init__(self, models: Models, observer: Observer, limits: ApiLimits) -> None:
        self._models = models
        self._observer = observer
        self._limits = limits

    async def generate(self, http: Request, endpoint: str, schema: type[Body], prepare: Prepare[Body]) -> Response:
        """Answer a request. What can be refused is refused before the response begins; a stream, when it is sent.

        :raises ExlpoolError: the request is wrong, was refused, or failed.
        """
        observed = ObservedRequest(self._observer, endpoint)
        note_first_byte(http)
        try:
            body, size = await parse_body(http, schema)
            async with UntilClientGone(http.receive):
                deadline = Deadline(http, body.timeout_s or self._limits.default_timeout_s)
                gate = self._models.gate(body.model)
                await deadline.within(gate.passed())
                with gate.entered():
                    return await self._answer(http, body, size, prepare, observed, deadline)
        except (ClientGone, ClientDisconnect):
            observed.end("disconnected", CLIENT_GONE_STATUS)
            return Response(status_code=CLIENT_GONE_STATUS)
        except ExlpoolError as error:
            observed.end(error.code, error.status)
            raise
        except Exception:
            observed.end("internal_error", 500)
            raise
        except BaseException:  # cancelled by the server
            observed.end("disconnected", CLIENT_GONE_STATUS)
            raise

    async def _answer(
        self,
        http: Request,
        body: Body,
        size: int,
        prepare: Prepare[Body],
        observed: ObservedRequest,
        deadline: Deadline,
    ) -> Response:
        model = self._models.get(body.model)
        caller = caller_of(http)
        answer = await deadline.within(prepare(model, body, size, caller, self._limits))
        if caller.budget is not None:
            with own_names(body):
                await deadline.within(caller.budget.reserve(most_tokens(model.front, answer.jobs, body.n or 1)))
        answer.jobs = deadline.imposed(answer.jobs)
        usage = UsageSum(body.n or 1, [len(job.token_ids) for job in answer.jobs])
        observed.start(model.name, usage)
        if body.stream:
            events = _events(model, body, answer, usage, observed)
            return EventStream(events, observed, keepalive_s=self._limits.keepalive_s)
        with own_names(body):
            return await _whole(model, answer, usage, observed)


async def _whole(model: ServedModel, answer: Answer, usage: UsageSum, observed: ObservedRequest) -> Response:
    deltas = await run_whole(model.front, answer.jobs)
    for job, delta in zip(answer.jobs, deltas, strict=True):
        if delta.usage is not None:
            usage.end(job.choice, delta.usage)
    timing = max((delta.timing for delta in deltas if delta.timing is not None), key=lambda timing: timing.total_s)
    observed.timing = timing
    response = Response(
        answer.whole(deltas, usage_model(usage)),
        media_type="application/json",
        headers=timing_headers(timing, whole=True),
    )
    observed.end("ok", response.status_code)
    return response


async def _events(
    model: ServedModel, body: GenerationFields, answer: Answer, usage: UsageSum, observed: ObservedRequest
) -> AsyncGenerator[str, None]:
    """The text of the stream, in pieces that are never empty."""
    opening = answer.opening()
    with own_names(body):
        async with aclosing(stream(model.front, answer.jobs)) as deltas:
            async for choice, delta in deltas:
                observed.streamed(delta)
                if delta.usage is None:
                    usage.stream(choice, len(delta.token_ids))
                else:
                    usage.end(choice, delta.usage)
                text = opening + answer.chunks(choice, delta)
                opening = ""
                if text:
                    yield text
    yield (answer.writer.usage(usage_model(usage)) if body.include_usage else "") + DONE
