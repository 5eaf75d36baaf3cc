"""From the growing text of one completion to content and tool calls.

A call is an object `{"name": <an offered tool>, "arguments" or "parameters": {…}}` between the marks of the model's
format. It is told once its name is known and its arguments have opened; from then on the JSON text of the arguments is
passed on as it arrives and as the model wrote it. Until then everything is withheld.

What goes wrong is not lost. Before a call has begun, all that was withheld comes out as text, marks included: no JSON,
an unknown tool, the end of the completion. Once begun it stays a call: cut off, its arguments are the beginning of an
object (`unfinished`), and what follows a broken one comes out as text.

White space before the first call, between calls and behind the last is dropped where nothing else stands. Without
`parallel`, calls behind the first are dropped. The outcome does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from enum import Enum, auto

from serve_app.api.tools.call_reader import JSON_SPACE, CallReader
from serve_app.api.tools.events import TextPiece, ToolCallArguments, ToolCallStarted, ToolEvent
from serve_app.api.tools.json_tokens import NotACall
from serve_app.models.tool_format import ToolFormat


class _State(Enum):
    TEXT = auto()
    """Content, until a call may begin."""
    LIST = auto()
    """Behind the opening mark of a list of calls, before its bracket."""
    CALL = auto()
    AFTER = auto()
    """Behind a call, where its closing mark or a separator may stand."""


class ToolCallParser:
    """The state of one completion. Without a `tool_format` or `names`, all is text.

    `new_id` makes the ids of calls.
    """

    def __init__(
        self,
        tool_format: ToolFormat | None,
        names: Collection[str],
        *,
        parallel: bool = True,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self.calls = 0
        """Calls that have been told."""
        self._format = tool_format if names else None
        self._names = frozenset(names)
        self._parallel = parallel
        self._new_id = new_id or (_short_id if tool_format is not None and tool_format.short_ids else _call_id)
        self._events: list[ToolEvent] = []
        self._state = _State.TEXT
        self._rest = ""  # not yet read; while a call is read, that call has it
        self._withheld = ""  # marks and white space before the call
        self._blank = True  # nothing but white space since the beginning or the last call
        self._call = CallReader(self._names)
        self._told = False  # the call that is read has been told
        self._unfinished = False

    @property
    def unfinished(self) -> bool:
        """Whether the arguments of a call that was told lack their end."""
        return self._unfinished or (self._told and not self._call.complete)

    def push(self, text: str) -> list[ToolEvent]:
        """What `text` makes known."""
        if self._format is None:
            return [TextPiece(text)] if text else []
        self._rest += text
        while self._rest and self._read(self._format):
            pass
        return self._take_events()

    def finish(self) -> list[ToolEvent]:
        """The completion has ended: what was withheld becomes text, unless it belongs to a call."""
        match self._state:
            case _State.TEXT:
                rest = "" if self.calls and self._blank else self._rest
            case _State.LIST:
                rest = self._withheld + self._rest
            case _State.CALL:
                rest = "" if self._call.begun else self._withheld + self._call.withheld + self._call.rest
            case _State.AFTER:
                rest = ""
        self._tell_text(rest)
        self._rest = self._withheld = ""
        return self._take_events()

    def _read(self, tool_format: ToolFormat) -> bool:
        """Read some of the rest; False: nothing more can be read before more has arrived."""
        match self._state:
            case _State.TEXT:
                return self._read_text(tool_format)
            case _State.LIST:
                return self._read_list()
            case _State.CALL:
                return self._read_call()
            case _State.AFTER:
                return self._read_after(tool_format)

    def _read_text(self, tool_format: ToolFormat) -> bool:
        opening, text = tool_format.opening, self._rest
        begin = len(text) - len(text.lstrip(JSON_SPACE)) if self._blank else 0
        bare = "[" if tool_format.listed else "{"
        at = text.find(opening) if opening else -1
        if self._blank and tool_format.may_begin_bare and text.startswith(bare, begin) and at != begin:
            if opening.startswith(text[begin:]) and opening:
                return False
            return self._enter(tool_format, "", begin)
        if at >= 0:
            self._tell_content(at)
            return self._enter(tool_format, opening, len(self._rest) - len(text) + at)
        self._tell_content(len(text) - _partial_mark(text, opening))
        return False

    def _tell_content(self, end: int) -> None:
        """Tell the rest up to `end`, unless it is white space that a call may follow."""
        if self._blank and not self._rest[:end].strip(JSON_SPACE):
            return
        self._tell_text(self._rest[:end])
        self._rest = self._rest[end:]

    def _enter(self, tool_format: ToolFormat, mark: str, begin: int) -> bool:
        """A call, or a list of them, may begin behind `mark`, which stands at `begin` of the rest."""
        return self._expect(_State.LIST if tool_format.listed else _State.CALL, begin + len(mark))

    def _expect(self, state: _State, read: int) -> bool:
        """Withhold so much of the rest, and read a new call."""
        self._unfinished = self.unfinished
        self._told = False
        self._call = CallReader(self._names)
        self._withheld = self._rest[:read]
        self._rest = self._rest[read:]
        self._state = state
        return True

    def _read_list(self) -> bool:
        begin = len(self._rest) - len(self._rest.lstrip(JSON_SPACE))
        if begin == len(self._rest):
            return False
        if self._rest[begin] != "[":
            return self._give_up(self._withheld)
        self._withheld += self._rest[: begin + 1]
        self._rest = self._rest[begin + 1 :]
        self._state = _State.CALL
        return True

    def _read_call(self) -> bool:
        arrived, self._rest = self._rest, ""
        try:
            self._call.push(arrived)
        except NotACall:
            self._tell_call()
            self._rest = self._call.rest
            return self._give_up(self._withheld + self._call.withheld)
        self._tell_call()
        if self._call.ended:
            self._rest = self._call.rest
            self._state = _State.AFTER
        return self._call.ended

    def _read_after(self, tool_format: ToolFormat) -> bool:
        rest = self._rest.lstrip(JSON_SPACE)
        closing = "]" if tool_format.listed else tool_format.closing
        if closing and rest.startswith(closing):
            self._rest = rest[len(closing) :]
        elif closing.startswith(rest):
            return False
        elif tool_format.separator and rest.startswith(tool_format.separator):
            behind = rest[len(tool_format.separator) :].lstrip(JSON_SPACE)
            if not behind:
                return False
            if behind.startswith("{"):
                return self._expect(_State.CALL, len(self._rest) - len(behind))
        self._state = _State.TEXT
        self._blank = True
        return True

    def _give_up(self, withheld: str) -> bool:
        """What has been withheld is text, and so is the rest, as far as it begins no other call."""
        self._tell_text(withheld)
        self._withheld = ""
        self._state = _State.TEXT
        return True

    def _tell_call(self) -> None:
        if not self._call.begun:
            return
        self._withheld = ""
        arguments = self._call.take_arguments()
        if not self._told and (self._parallel or not self.calls):
            assert self._call.name is not None
            self._told = True
            self._events.append(ToolCallStarted(self.calls, self._new_id(), self._call.name))
            self.calls += 1
        if self._told and arguments:
            self._events.append(ToolCallArguments(self.calls - 1, arguments))

    def _tell_text(self, text: str) -> None:
        if not text:
            return
        self._blank = self._blank and not text.strip(JSON_SPACE)
        last = self._events[-1] if self._events else None
        if isinstance(last, TextPiece):
            self._events[-1] = TextPiece(last.text + text)
        else:
            self._events.append(TextPiece(text))

    def _take_events(self) -> list[ToolEvent]:
        taken, self._events = self._events, []
        return taken


def _partial_mark(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    longest = min(len(mark) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if mark.startswith(text[-length:])), 0)


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _short_id() -> str:
    return secrets.token_hex(5)[:9]
