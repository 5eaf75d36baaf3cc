"""The tools that a request offers, and which of them the model may or must call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.errors import InvalidRequest

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the caller can run for the model.

    `parameters` is the JSON schema of its arguments, an object; None: it takes none. With `strict`, calls that the
    model makes of its own accord match it as well, not only those that are demanded.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def as_openai(self) -> dict[str, Any]:
        """The tool in the shape of an OpenAI request, which is what chat templates expect."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = dict(self.parameters or {"type": "object", "properties": {}})
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`none`: no calls; `auto`: as the model likes; `required`: at least one call; `named`: one call of `name`."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None


def check_tools(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """:raises InvalidRequest: no tools, too many, two of one name, a bad name, or a choice that names none of them."""
    if not tools:
        raise InvalidRequest("tools is empty: leave it out, or offer at least one.", param="tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"There are {len(tools)} tools; at most {MAX_TOOLS} may be offered.", param="tools")
    seen: set[str] = set()
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequest(
                f"The name of a tool has 1 to 64 letters, digits, '_', '-' or '.', unlike {tool.name[:80]!r}.",
                param="tools",
            )
        if tool.name in seen:
            raise InvalidRequest(f"Two tools are called {tool.name!r}.", param="tools")
        seen.add(tool.name)
    if choice.mode == "named" and choice.name not in seen:
        raise InvalidRequest(f"tool_choice names {choice.name!r}, which is none of the tools.", param="tool_choice")
