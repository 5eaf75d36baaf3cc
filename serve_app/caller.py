"""Who asks, and since when: what the edge knows of a caller, as far as the API needs it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from actors.results import Priority

BEGAN_AT_S = "exlpool.began_at_s"
"""Where the scope of a request says when its first byte was seen, in `time.monotonic()`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant` is whose share of the pool a request counts against; `max_priority` the best class it may ask for."""

    tenant: str = ""
    max_priority: Priority = Priority.INTERACTIVE


ANYBODY = Caller()
"""The caller of a server without keys."""


def caller_of(request: HTTPConnection) -> Caller:
    """The caller that authentication has put into `request.state.caller`, else anybody."""
    caller = getattr(request.state, "caller", ANYBODY)
    assert isinstance(caller, Caller)
    return caller
