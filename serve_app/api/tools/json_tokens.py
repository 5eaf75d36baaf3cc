"""JSON tokens at the front of a text that is still arriving, and where an object in it ends."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_TOKEN_CHARACTERS = 4096
"""What is longer is no key, name or id; so looking at an unfinished token again with every piece stays cheap."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]+")


class NotACall(Exception):
    """What stands here is no tool call."""


def scalar_end(text: str) -> int | None:
    """Where the string, number, true, false or null at the front of `text` ends; None: not all of it may be there.

    :raises NotACall: there is none.
    """
    quoted = text.startswith('"')
    match = (_STRING if quoted else _SCALAR).match(text)
    if match is not None and (quoted or match.end() < len(text)):
        return match.end()
    if (match is None and not quoted) or len(text) > MAX_TOKEN_CHARACTERS:
        raise NotACall
    return None


def decoded(token: str) -> Any:
    """The value of a JSON token.

    :raises NotACall: it is none.
    """
    try:
        return json.loads(token, strict=False)
    except ValueError:
        raise NotACall from None


class ObjectScanner:
    """Finds where a JSON object ends: behind the brace that closes it, or at a `<` outside a string.

    No JSON holds the latter, so there the object was broken off (`broken`) and a closing mark begins.
    """

    def __init__(self) -> None:
        self.broken = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find_end(self, text: str) -> int | None:
        """Read on; returns where in `text` the object ends, or None."""
        for place, character in enumerate(text):
            if self._in_string:
                self._read_in_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
            elif character == "<":
                self.broken = True
                return place
        return None

    def _read_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
