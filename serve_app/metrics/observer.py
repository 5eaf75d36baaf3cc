"""What the API tells whoever measures it: one call per event, numbers and names only, never text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request to generate, at its end.

    `outcome` is "ok", the code of the error it ended with, or "disconnected". `status` is what the client got, or
    would have got: a stream that failed had begun with 200.

    The prompt's tokens count from the moment on that the pool has the request, however it ends: they may have been
    computed when a client leaves before the first token. They do not count where the pool refused the request.
    """

    endpoint: str
    model: str
    outcome: str
    status: int
    duration_s: float
    queue_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Observer(Protocol):
    """Called on the event loop, `later_tokens` for every chunk: must be quick and never raise."""

    def started(self, model: str) -> None:
        """A valid request begins. Exactly one `ended` follows for it."""

    def first_tokens(self, model: str, after_s: float) -> None:
        """A stream's first tokens, `after_s` after the request came."""

    def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
        """A later chunk of `tokens` tokens of a stream, `gap_s` after the one before."""

    def ended(self, record: RequestRecord) -> None:
        """A request is over. One that was refused before it was valid ends without a start, with model ""."""


class Unobserved:
    """Nobody measures."""

    def started(self, model: str) -> None:
        pass

    def first_tokens(self, model: str, after_s: float) -> None:
        pass

    def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
        pass

    def ended(self, record: RequestRecord) -> None:
        pass
