"""One checker of grammars for tests that need no processes of their own; its processes end with the tests'. It may be
used on one event loop after another, never on two at once."""

from __future__ import annotations

from functools import cache

from actors.request.grammar.checker import GrammarChecker


@cache
def shared_checker() -> GrammarChecker:
    return GrammarChecker()
