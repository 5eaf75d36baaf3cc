"""Small grammars that llguidance never finishes, or not within seconds and hundreds of MiB. Only for processes that
are bounded."""

from __future__ import annotations

import json

from actors.request.grammar.kinds import GrammarKind

ENDLESS_SCHEMA = json.dumps({"allOf": [{"type": "string", "pattern": f"a{number}.*b"} for number in range(30)]})
_INTERSECTION = " & ".join(rf"/(.|\n)*a{number}(.|\n)*/" for number in range(30))
ENDLESS_LARK = f"start: A\nA: {_INTERSECTION}"
ENDLESS_BEHIND_SIX = f"start: A\nA: /(y|n){{6}}/ (/z/ | /x/ B)\nB: {_INTERSECTION}"
"""Compiled at once; what may follow after six characters takes for ever to find out."""
ENDLESS_TOOL = {"type": "object", "properties": {"a": json.loads(ENDLESS_SCHEMA)}}
LARGE_REGEX = "a(((b{1000}){1000}){1000})c"

BOMBS: dict[str, tuple[GrammarKind, str]] = {
    "schema": ("json_schema", ENDLESS_SCHEMA),
    "lark": ("lark", ENDLESS_LARK),
    "regex": ("regex", LARGE_REGEX),
}
