"""Who asks, and since when: what the edge knows of a caller, as far as the API needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.types import Scope

from actors.results import Priority

BEGAN_AT_S = "exlpool.began_at_s"
"""Where the scope of a request says when its first byte was seen, in `time.monotonic()`."""
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
"""Answered to everybody: load balancers have no key, and a browser cannot show one before it has the page that asks
for it."""
_KEYED = "keyed"


class TokenBudget(Protocol):
    """What a request may take of the tokens of its key."""

    async def reserve(self, tokens: int) -> None:
        """Before the request begins, all that it can take; what it did not take is given back at its end.

        :raises ExlpoolError: it may not have so many, now or ever.
        """
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant` is whose share of the pool a request counts against; `max_priority` the best class it may ask for;
    `budget` bounds its tokens, where something does."""

    tenant: str = ""
    max_priority: Priority = Priority.INTERACTIVE
    budget: TokenBudget | None = None


ANYBODY = Caller()
"""The caller of a server without keys."""


def caller_of(request: HTTPConnection) -> Caller:
    """The caller that authentication has put into `request.state.caller`, else anybody."""
    caller = getattr(request.state, "caller", ANYBODY)
    assert isinstance(caller, Caller)
    return caller


def mark_keyed(scope: Scope, keyed: bool) -> None:
    """Say whether requests need a key."""
    scope.setdefault("state", {})[_KEYED] = keyed


def is_keyed(request: HTTPConnection) -> bool:
    """Whether requests need a key, as far as anybody has said."""
    return bool(getattr(request.state, _KEYED, False))
