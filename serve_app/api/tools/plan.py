"""What a request's tools mean for its prompt, its sampling, its parsing and its finish reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.errors import InvalidRequest
from actors.results import FinishReason
from serve_app.api.response_format import Constraint
from serve_app.api.tools.definitions import Tool, ToolChoice, check_tools
from serve_app.api.tools.grammar import RefusedSchemas, enforced_calls, optional_calls
from serve_app.api.tools.parser import ToolCallParser
from serve_app.models.tool_format import FORMATS, ToolFormat

OpenAIFinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """Made by `plan_tools`. `offered` are the tools that the model may call; none: a request without tools."""

    offered: tuple[Tool, ...]
    choice: ToolChoice
    parallel: bool
    tool_format: ToolFormat | None
    constraint: Constraint | None
    """The grammar of the whole completion, calls included. Whether it can be compiled is still to be checked."""

    @property
    def template_tools(self) -> list[dict[str, Any]] | None:
        """What the chat template is given as `tools`."""
        return [tool.as_openai() for tool in self.offered] or None

    @property
    def enforced(self) -> tuple[Tool, ...]:
        """The tools whose schemas the grammar holds, if there is one about tools."""
        return tuple(tool for tool in self.offered if self.choice.mode != "named" or tool.name == self.choice.name)

    def sampling(self) -> dict[str, str]:
        """The fields of `SamplingParams` that hold the model to the plan."""
        return {} if self.constraint is None else self.constraint.sampling()

    def parser(self) -> ToolCallParser:
        """For the text of one completion."""
        return ToolCallParser(self.tool_format, [tool.name for tool in self.offered], parallel=self.parallel)

    def finish_reason(self, reason: FinishReason, parser: ToolCallParser) -> OpenAIFinishReason:
        """What the client is told, once `parser` has finished.

        A completion with calls says tool_calls, except that it says length when it was cut off, and stop when the
        caller had named the tool (as vLLM does) or a stop string broke a call off: nobody is told to run half a call.

        :raises ValueError: it was cancelled or failed, which must not look like an end.
        """
        if reason is FinishReason.LENGTH:
            return "length"
        if reason is not FinishReason.STOP:
            raise ValueError(f"a completion that ended by {reason} has no OpenAI finish reason")
        called = parser.calls > 0 and not parser.unfinished and self.choice.mode != "named"
        return "tool_calls" if called else "stop"


def plan_tools(
    tools: Sequence[Tool] | None,
    choice: ToolChoice | None,
    *,
    parallel: bool = True,
    tool_format: ToolFormat | None = None,
    constraint: Constraint | None = None,
    refused: RefusedSchemas | None = None,
) -> ToolPlan:
    """The plan of one request. None stands for a field that the request leaves out: `choice` is then auto with tools.

    With choice none, the model does not learn of the tools, so it cannot call one. Demanded calls take the place of
    `constraint`, which is about the content that there is none of. `refused` are schemas of arguments of which it is
    known that they cannot be compiled.

    :raises InvalidRequest: tools or choice are wrong or contradict each other, the model's template knows no tools, or
        the parameters of a tool cannot be enforced. `param` names the field.
    """
    if tools is None:
        if choice is not None and choice.mode != "none":
            raise InvalidRequest("tool_choice needs tools.", param="tool_choice")
        return ToolPlan((), ToolChoice("none"), parallel, None, constraint)
    choice = choice or ToolChoice("auto")
    check_tools(tools, choice)
    if choice.mode == "none":
        return ToolPlan((), choice, parallel, None, constraint)
    if tool_format is None:
        raise InvalidRequest(
            "This model's chat template writes no tool calls in a known format "
            f"({', '.join(FORMATS)}): leave tools out or use another model.",
            param="tools",
        )
    source = _grammar(tools, choice, parallel, tool_format, constraint, refused or {})
    if source is None:
        return ToolPlan(tuple(tools), choice, parallel, tool_format, None)
    grammar = Constraint("lark", source, "tools", "The grammar of these tools")
    return ToolPlan(tuple(tools), choice, parallel, tool_format, grammar)


def _grammar(
    tools: Sequence[Tool],
    choice: ToolChoice,
    parallel: bool,
    tool_format: ToolFormat,
    constraint: Constraint | None,
    refused: RefusedSchemas,
) -> str | None:
    if choice.mode == "required":
        return enforced_calls(tool_format, tools, parallel=parallel, refused=refused)
    if choice.mode == "named":
        named = [tool for tool in tools if tool.name == choice.name]
        return enforced_calls(tool_format, named, parallel=False, refused=refused)
    if constraint is None:
        strict = any(tool.strict for tool in tools)
        return optional_calls(tool_format, tools, parallel=parallel, refused=refused) if strict else None
    if constraint.kind != "json_schema" or not tool_format.opening:
        raise InvalidRequest(
            f"{constraint.param} cannot be combined with tools that the model may call or not: "
            "use tool_choice none or required.",
            param=constraint.param,
        )
    return optional_calls(tool_format, tools, parallel=parallel, refused=refused, document_schema=constraint.source)
