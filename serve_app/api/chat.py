"""Chat completions: messages and tools in, a message with content and tool calls out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from actors.errors import InvalidRequest, UnsupportedParameter
from actors.request.prompt import TemplateOptions
from actors.results import Delta
from serve_app.api.answer import check_choices, make_jobs, require_consistent_stream
from serve_app.api.chat_choice import ChatChoiceText
from serve_app.api.chat_input import make_plan, require_free_variables, template_messages, wanted_form
from serve_app.api.generation import Job
from serve_app.api.options import own_names, pool_options
from serve_app.api.schemas.chat import ChatCompletion, ChatCompletionRequest
from serve_app.api.schemas.common import UsageModel
from serve_app.api.sse import ChunkWriter, Identity
from serve_app.api.tools import ToolPlan, usable_plan
from serve_app.caller import Caller
from serve_app.config import ApiLimits
from serve_app.models.served import ServedModel


class ChatAnswer:
    """An `Answer`."""

    def __init__(self, identity: Identity, jobs: Sequence[Job], writer: ChunkWriter, texts: Sequence[ChatChoiceText]):
        self.jobs = jobs
        self.writer = writer
        self._identity = identity
        self._texts = texts

    def opening(self) -> str:
        return "".join(
            self.writer.choice(job.choice, f'"delta": {ROLE_DELTA}, "logprobs": null, "finish_reason": null')
            for job in self.jobs
        )

    def chunks(self, choice: int, delta: Delta) -> str:
        return "".join(self.writer.choice(choice, fields) for fields in self._texts[choice].chunks(delta))

    def whole(self, deltas: Sequence[Delta], usage: UsageModel) -> str:
        answer = ChatCompletion(
            id=self._identity.answer_id,
            created=self._identity.created,
            model=self._identity.model,
            system_fingerprint=self._identity.fingerprint,
            choices=[
                self._texts[job.choice].whole(job.choice, delta) for job, delta in zip(self.jobs, deltas, strict=True)
            ],
            usage=usage,
        )
        return answer.model_dump_json()


ROLE_DELTA = '{"role": "assistant", "content": ""}'


async def prepare_chat(
    model: ServedModel, request: ChatCompletionRequest, size: int, caller: Caller, limits: ApiLimits
) -> ChatAnswer:
    """Check a request to the end, all but what only the workers know. `size` is that of its body.

    :raises ExlpoolError: the first thing that is wrong with it.
    """
    _refuse_unsupported(request)
    check_choices(1, request.n or 1, limits)
    text = model.text
    plan = await _plan(model, request)
    options = pool_options(request, caller, model.default_priority, limits, plan.sampling())
    with own_names(request):
        token_ids = await text.encode(
            template_messages(request.messages, text),
            _template_options(request, plan),
            size=size,
            room=model.max_tokens,
        )
    jobs = make_jobs([token_ids], options, request.n or 1)
    identity = Identity.new("chatcmpl", model.name, model.fingerprint)
    writer = ChunkWriter("chat.completion.chunk", identity, include_usage=request.include_usage)
    names = text.names if request.logprobs else None
    return ChatAnswer(identity, jobs, writer, [ChatChoiceText(plan, names) for _ in jobs])


def _refuse_unsupported(request: ChatCompletionRequest) -> None:
    require_consistent_stream(request)
    for field in ("functions", "function_call", "audio", "web_search_options"):
        if getattr(request, field) is not None:
            raise UnsupportedParameter(f"{field} is not supported.", param=field)
    require_free_variables(request.chat_template_kwargs)
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
        )


async def _plan(model: ServedModel, request: ChatCompletionRequest) -> ToolPlan:
    """What tools and response format mean. Grammars may be long, and are written off the event loop."""
    formed = request.response_format is not None and request.response_format.type != "text"
    guided = (request.guided_json, request.guided_regex, request.guided_grammar)
    if not (request.tools or formed or any(source is not None for source in guided)):
        return make_plan(model.text, request, None)
    constraint = await asyncio.to_thread(wanted_form, request)
    if constraint is not None:
        await constraint.check(model.grammars)
    make = partial(asyncio.to_thread, make_plan, model.text, request, constraint)
    return await usable_plan(make, model.grammars)


def _template_options(request: ChatCompletionRequest, plan: ToolPlan) -> TemplateOptions:
    return TemplateOptions(
        tools=plan.template_tools,
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        variables=request.chat_template_kwargs,
    )
