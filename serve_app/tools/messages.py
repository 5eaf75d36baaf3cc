"""Calls in the messages of a conversation, as chat templates want them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def message_for_template(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose tool calls carry their arguments as an object instead of as JSON text.

    Clients send text, and templates write the arguments with `tojson`, which would quote that text. Arguments that are
    no JSON object stay what they are.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return dict(message)
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
