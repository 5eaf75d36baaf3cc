"""What a chat's fields mean: messages as templates expect them, tools, and the form of the answer. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.errors import InvalidRequest
from actors.request.chat_template import require_free_names
from serve_app.api.response_format import Constraint, ResponseFormat, text_constraint
from serve_app.api.schemas.chat import ChatCompletionRequest, ChatMessage, NamedToolChoice, ToolDefinition
from serve_app.api.tools import RefusedSchemas, Tool, ToolChoice, ToolPlan, plan_tools
from serve_app.models.text import ModelText


def require_free_variables(variables: Mapping[str, Any] | None) -> None:
    """:raises InvalidRequest: a variable for the chat template has a name that is taken."""
    require_free_names(variables or {}, param="chat_template_kwargs")


def wanted_form(request: ChatCompletionRequest) -> Constraint | None:
    """What response format and `guided_*` mean.

    :raises InvalidRequest: they are wrong.
    """
    return text_constraint(
        _response_format(request),
        guided_json=request.guided_json,
        guided_regex=request.guided_regex,
        guided_grammar=request.guided_grammar,
    )


def make_plan(
    text: ModelText,
    request: ChatCompletionRequest,
    constraint: Constraint | None,
    refused: RefusedSchemas | None = None,
) -> ToolPlan:
    """What tools mean beside the form that is wanted.

    :raises InvalidRequest: they are wrong.
    """
    return plan_tools(
        None if request.tools is None else [tool_of(definition) for definition in request.tools],
        _tool_choice(request),
        parallel=request.parallel_tool_calls is not False,
        tool_format=text.tool_format,
        constraint=constraint,
        refused=refused,
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
