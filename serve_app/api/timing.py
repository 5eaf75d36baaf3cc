"""Where the time of a request went, as its answer's headers say it."""

from __future__ import annotations

from actors.results import Timing


def timing_headers(timing: Timing, *, whole: bool) -> dict[str, str]:
    """Where the time went, in milliseconds; of a stream as far as its first token."""
    headers = {"x-queue-time-ms": _ms(timing.queue_s), "x-prefill-time-ms": _ms(timing.prefill_s)}
    if whole:
        headers["x-inference-time-ms"] = _ms(timing.total_s - timing.queue_s)
    return headers


def _ms(seconds: float) -> str:
    return f"{max(seconds, 0.0) * 1000.0:.1f}"
