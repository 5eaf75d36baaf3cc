"""A job on the engine's thread, and how it ends in the words of messages. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from actors.engines.base import Emitted, Ended
from actors.messages import Finished, GenerationRequest
from actors.results import FinishReason, TokenLogprobs


@dataclass(slots=True)
class ThreadJob:
    """`kept` is what was generated so far for a front that reads only the whole."""

    front_id: str
    request: GenerationRequest
    submitted_at_s: float
    started_at_s: float | None = None
    cached_tokens: int = 0
    emitted: bool = False
    kept: list[Emitted] = field(default_factory=list)


def joined(events: list[Emitted]) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...]]:
    return (
        "".join(event.text for event in events),
        tuple(token_id for event in events for token_id in event.token_ids),
        tuple(entry for event in events for entry in event.logprobs),
    )


def finished_by(job: ThreadJob, event: Ended) -> Finished:
    return Finished(
        reason=event.reason,
        prompt_tokens=len(job.request.token_ids),
        completion_tokens=event.completion_tokens,
        cached_tokens=event.cached_tokens,
        stop_token_id=event.stop_token_id,
        stop_string=event.stop_string,
        queue_s=(job.started_at_s or time.monotonic()) - job.submitted_at_s,
        prefill_s=event.prefill_s,
        generate_s=event.generate_s,
        error=event.error,
    )


def failed_with(request: GenerationRequest, error: Exception) -> Finished:
    return Finished(reason=FinishReason.ERROR, prompt_tokens=len(request.token_ids), completion_tokens=0, error=error)
