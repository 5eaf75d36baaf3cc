"""How many values a JSON body holds, found out before anything is made of it.

Reading a body and checking it is one call into pydantic, which holds the interpreter from its begin to its end, on
whatever thread. So its time must be bounded, and it goes by values, not by bytes: 16 MiB of text take a millisecond,
and 16 MiB of `[],[],...` five seconds.
"""

from __future__ import annotations

import re

MAX_VALUES = 2**20
"""Numbers, texts, keys and so on of one body, as far as commas tell; 128 prompts of 8000 token ids fit."""
MAX_CONTAINERS = 2**16
"""Lists and objects of one body, which cost most."""
MAX_ENTRIES = 2**17
"""Entries of all its objects together."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_UP_TO_OPEN_TEXT = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_INSIDE_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_PIECE_BYTES = 65_536
"""Matching holds the interpreter, so it is done in pieces, of two bytes at least: what a backslash escapes is one."""
_QUOTE = ord('"')


def may_hold_too_much(body: bytes) -> bool:
    """A quick look that counts what stands in texts, too: False is certain."""
    return len(body) > MAX_CONTAINERS and _exceeds(*_counts(body))


def holds_too_much(body: bytes) -> bool:
    """The count itself, up to the bound. Takes a while, on a thread, and lets others run meanwhile."""
    values = containers = entries = at = 0
    while at < len(body):
        # Up to a text that goes on behind this piece, if there is one; that text is passed over by itself, since it may
        # be as long as the body.
        piece = _UP_TO_OPEN_TEXT.match(body, at, at + _PIECE_BYTES)
        assert piece is not None, "it matches nothing at all"
        more = _counts(_TEXT.sub(b"", piece.group()))
        values, containers, entries = values + more[0], containers + more[1], entries + more[2]
        if _exceeds(values, containers, entries):
            return True
        at = piece.end()
        if at < len(body) and body[at] == _QUOTE:
            at = _after_text(body, at + 1)
    return False


def _counts(json: bytes) -> tuple[int, int, int]:
    """Values as far as commas tell, containers, and entries of objects."""
    return json.count(b","), json.count(b"[") + json.count(b"{"), json.count(b":")


def _exceeds(values: int, containers: int, entries: int) -> bool:
    return values >= MAX_VALUES or containers > MAX_CONTAINERS or entries > MAX_ENTRIES


def _after_text(body: bytes, at: int) -> int:
    """Where the text that begins at `at` is over, its closing quote included."""
    while True:
        match = _INSIDE_TEXT.match(body, at, at + _PIECE_BYTES)
        assert match is not None, "it matches the empty text"
        begun, at = at, match.end()
        if at >= len(body):
            return len(body)
        if body[at] == _QUOTE:
            return at + 1
        if at == begun:
            return len(body)  # a backslash at the very end: no JSON, which is for the parser to tell
