"""What a parser of tool calls tells, in the order in which it goes to the client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextPiece:
    """More of the message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call of an offered tool begins; told once per call. Indices count from 0 without gaps."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the JSON text of the arguments of the call that was started last."""

    index: int
    fragment: str


ToolEvent = TextPiece | ToolCallStarted | ToolCallArguments
