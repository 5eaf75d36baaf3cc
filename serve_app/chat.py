"""Chat completions: messages and tools in, a message with content and tool calls out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.errors import InvalidRequest, UnsupportedParameter
from actors.messages import Delta
from actors.tokenizer import TemplateOptions
from serve_app.answer import check_choices, make_jobs, require_consistent_stream
from serve_app.caller import Caller
from serve_app.chat_choice import ChatChoiceText
from serve_app.generation import Job
from serve_app.limits import ApiLimits
from serve_app.model_text import ModelText
from serve_app.models import ServedModel
from serve_app.options import own_names, pool_options
from serve_app.response_format import ResponseFormat, text_constraint
from serve_app.schemas.chat import ChatCompletion, ChatCompletionRequest, ChatMessage, NamedToolChoice, ToolDefinition
from serve_app.schemas.common import UsageModel
from serve_app.sse import ChunkWriter, Identity
from serve_app.tools import Tool, ToolChoice, ToolPlan, plan_tools


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


RESERVED_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt", "continue_final_message"})
"""What a chat template gets from other fields."""


async def prepare_chat(
    model: ServedModel, request: ChatCompletionRequest, size: int, caller: Caller, limits: ApiLimits
) -> ChatAnswer:
    """Check a request to the end, all but what only the workers know. `size` is that of its body.

    :raises ExlpoolError: the first thing that is wrong with it.
    """
    _refuse_unsupported(request)
    check_choices(1, request.n or 1, limits)
    text = model.text
    plan = await _plan(text, request)
    options = pool_options(request, caller, model.default_priority, limits, plan.sampling())
    with own_names(request):
        token_ids = await text.encode(
            template_messages(request.messages, text), _template_options(request, plan), size=size
        )
    jobs = make_jobs([token_ids], options, request.n or 1)
    identity = Identity.new("chatcmpl", model.name, model.fingerprint)
    writer = ChunkWriter("chat.completion.chunk", identity, include_usage=request.include_usage)
    names = text.names if request.logprobs else None
    return ChatAnswer(identity, jobs, writer, [ChatChoiceText(plan, names) for _ in jobs])


def _refuse_unsupported(request: ChatCompletionRequest) -> None:
    require_consistent_stream(request)
    if request.functions:
        raise UnsupportedParameter("functions is deprecated: use tools.", param="functions")
    require_free_variables(request.chat_template_kwargs)
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
        )


def require_free_variables(variables: Mapping[str, Any] | None) -> None:
    """:raises InvalidRequest: a variable for the chat template has the name of a field."""
    reserved = sorted(RESERVED_VARIABLES & set(variables or ()))
    if reserved:
        raise InvalidRequest(
            f"chat_template_kwargs: {reserved[0]!r} is not a variable of its own.", param="chat_template_kwargs"
        )


async def _plan(text: ModelText, request: ChatCompletionRequest) -> ToolPlan:
    """What tools and response format mean. Grammars are compiled off the event loop."""
    formed = request.response_format is not None and request.response_format.type != "text"
    guided = (request.guided_json, request.guided_regex, request.guided_grammar)
    if request.tools or formed or any(source is not None for source in guided):
        return await asyncio.to_thread(_make_plan, text, request)
    return _make_plan(text, request)


def _make_plan(text: ModelText, request: ChatCompletionRequest) -> ToolPlan:
    constraint = text_constraint(
        _response_format(request),
        guided_json=request.guided_json,
        guided_regex=request.guided_regex,
        guided_grammar=request.guided_grammar,
    )
    return plan_tools(
        None if request.tools is None else [tool_of(definition) for definition in request.tools],
        _tool_choice(request),
        parallel=request.parallel_tool_calls is not False,
        tool_format=text.tool_format,
        constraint=constraint,
    )


def _response_format(request: ChatCompletionRequest) -> ResponseFormat | None:
    given = request.response_format
    if given is None:
        return None
    if given.type != "json_schema":
        return ResponseFormat(type=given.type)
    if given.json_schema is None:
        raise InvalidRequest(
            "response_format of type json_schema needs a json_schema.", param="response_format.json_schema"
        )
    schema = given.json_schema
    return ResponseFormat(type="json_schema", schema=schema.schema_, name=schema.name, strict=schema.strict)


def tool_of(definition: ToolDefinition) -> Tool:
    function = definition.function
    return Tool(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=bool(function.strict),
    )


def _tool_choice(request: ChatCompletionRequest) -> ToolChoice | None:
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        return ToolChoice("named", choice.function.name)
    return None if choice is None else ToolChoice(choice)


def _template_options(request: ChatCompletionRequest, plan: ToolPlan) -> TemplateOptions:
    return TemplateOptions(
        tools=plan.template_tools,
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        variables=request.chat_template_kwargs,
    )


def template_messages(messages: Sequence[ChatMessage], text: ModelText) -> list[dict[str, Any]]:
    """Messages as chat templates expect them.

    :raises InvalidRequest: a message has nothing to say.
    """
    return [_template_message(message, place, text) for place, message in enumerate(messages)]


def _template_message(message: ChatMessage, place: int, text: ModelText) -> dict[str, Any]:
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"Message {place} has no content.", param=f"messages[{place}].content")
    fields = {name: value for name, value in message.model_dump(exclude_unset=True).items() if value is not None}
    fields.setdefault("content", None)
    if message.role == "developer" and not text.knows_developer:
        fields["role"] = "system"
    for call in fields.get("tool_calls", ()):
        call["function"]["arguments"] = _arguments(call["function"]["arguments"])
    return fields


def _arguments(source: str) -> Any:
    """Templates write arguments as JSON themselves, so they get the object; what is none stays text."""
    try:
        arguments = json.loads(source)
    except (ValueError, RecursionError):
        return source
    return arguments if isinstance(arguments, dict) else source
