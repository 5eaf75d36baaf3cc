"""One request, as the observer is told about it."""

from __future__ import annotations

import time

from actors.results import Delta, Timing
from serve_app.metrics.observer import Observer, RequestRecord
from serve_app.metrics.usage import UsageSum

CLIENT_GONE_STATUS = 499
"""Stands for an answer that nobody was there to read."""


class ObservedRequest:
    """Tells the observer when a request starts, streams and ends; ends exactly once."""

    def __init__(self, observer: Observer, endpoint: str) -> None:
        self._observer = observer
        self._endpoint = endpoint
        self._model = ""
        self._came_at_s = time.monotonic()
        self._last_at_s: float | None = None
        self.timing: Timing | None = None
        """Where the time went, as far as it is known."""
        self._usage: UsageSum | None = None
        self._ended = False

    def start(self, model: str, usage: UsageSum) -> None:
        self._model, self._usage = model, usage
        self._observer.started(model)

    def streamed(self, delta: Delta) -> None:
        now_s = time.monotonic()
        if self._last_at_s is None:
            self._observer.first_tokens(self._model, now_s - self._came_at_s)
        elif delta.token_ids:
            self._observer.later_tokens(self._model, now_s - self._last_at_s, len(delta.token_ids))
        self._last_at_s = now_s
        if delta.timing is not None:
            self.timing = delta.timing

    def end(self, outcome: str, status: int) -> None:
        if self._ended:
            return
        self._ended = True
        usage = self._usage
        if usage is None or (_refused(status) and not usage.completion_tokens):
            usage = UsageSum(1)
        self._observer.ended(
            RequestRecord(
                endpoint=self._endpoint,
                model=self._model,
                outcome=outcome,
                status=status,
                duration_s=time.monotonic() - self._came_at_s,
                queue_s=None if self.timing is None else self.timing.queue_s,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
            )
        )

    def __repr__(self) -> str:
        state = "ended" if self._ended else "runs" if self._usage is not None else "is checked"
        return f"<ObservedRequest to {self._endpoint} of {self._model or 'no model yet'}: {state}>"


def _refused(status: int) -> bool:
    """Whether a request that ends so was turned away, if nothing had been generated: it is wrong (400 and the like),
    there is no room (429), or nobody to do it (503). 499 is a client that left, 500 and 504 come after some work."""
    return (400 <= status < 500 and status != CLIENT_GONE_STATUS) or status == 503
