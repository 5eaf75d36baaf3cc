"""Reading a completion through a parser, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from serve_app.api.tools import TextPiece, ToolCallArguments, ToolCallParser, ToolCallStarted, ToolEvent
from serve_app.models.tool_format import FORMATS, ToolFormat

HERMES, LLAMA3, MISTRAL = FORMATS["hermes"], FORMATS["llama3_json"], FORMATS["mistral"]
NAMES = ("f", "get_weather")


@dataclass
class Reading:
    """The events of a completion, joined as a client joins them."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments)"""
    ids: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """The kinds of the events, neighbours of one kind once."""
    unfinished: bool = False


def joined(events: Iterable[ToolEvent]) -> Reading:
    """Joins, and checks what holds for every completion."""
    reading = Reading()
    for event in events:
        kind = type(event).__name__
        if not reading.order or reading.order[-1] != kind or kind == "ToolCallStarted":
            reading.order.append(kind)
        match event:
            case TextPiece(text):
                assert text
                reading.text += text
            case ToolCallStarted(index, call_id, name):
                assert index == len(reading.calls)
                reading.calls.append((name, ""))
                reading.ids.append(call_id)
            case ToolCallArguments(index, fragment):
                assert fragment
                assert index == len(reading.calls) - 1
                name, arguments = reading.calls[index]
                reading.calls[index] = (name, arguments + fragment)
    return reading


def read(
    pieces: str | Iterable[str],
    tool_format: ToolFormat | None = HERMES,
    names: Iterable[str] = NAMES,
    *,
    parallel: bool = True,
) -> Reading:
    numbers = count(1)
    parser = ToolCallParser(tool_format, tuple(names), parallel=parallel, new_id=lambda: f"call_{next(numbers)}")
    events: list[ToolEvent] = []
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        events += parser.push(piece)
    events += parser.finish()
    reading = joined(events)
    reading.unfinished = parser.unfinished
    assert parser.calls == len(reading.calls)
    return reading
