"""What a person is told of a failure that came through Ray. What Ray itself says of it (addresses, actor ids, error
numbers of its transport, tracebacks of other processes) is for the log."""

from __future__ import annotations

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from actors.errors import ExlpoolError, first_line


def plain_reason(error: BaseException) -> str:
    """Why something was lost, as the end of a sentence, without full stop: exlpool's own words as they are, Ray's
    never."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, ExlpoolError):
            return cause.message.rstrip(".")
        return "it failed by a fault of its own, which the log names"
    if isinstance(error, ActorDiedError):
        return "its process has ended for good"
    if isinstance(error, ActorUnavailableError):
        return "its process has ended, or it cannot be reached"
    if isinstance(error, RayError):
        return "the connection to it failed"
    return first_line(error)
