"""A job on the engine's thread, and how it ends in the words of messages. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from actors.engines.base import Emitted, Ended, EngineJob
from actors.errors import EngineFailure, ExlpoolError
from actors.messages import Admission, Finished, GenerationRequest, RunningAttempt
from actors.results import FinishReason, TokenLogprobs


@dataclass(slots=True)
class ThreadJob:
    """`kept` is what was generated for a front that reads only the whole, and has not left yet."""

    stream_id: str
    request: GenerationRequest
    submitted_at_s: float
    started_at_s: float | None = None
    cached_tokens: int = 0
    emitted: bool = False
    kept: list[Emitted] = field(default_factory=list)

    @property
    def attempt(self) -> tuple[str, int]:
        return self.request.request_id, self.request.attempt

    def engine_job(self, job_id: int) -> EngineJob:
        request = self.request
        return EngineJob(
            job_id=job_id,
            token_ids=request.token_ids,
            max_new_tokens=request.max_new_tokens,
            seed=request.seed,
            params=request.params,
            page_hashes=request.page_hashes,
            resumed_tokens=request.resumed_tokens,
        )

    def take_kept(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...]]:
        """What is kept, joined: text, token ids, logprobs."""
        events, self.kept = self.kept, []
        return (
            "".join(event.text for event in events),
            tuple(token_id for event in events for token_id in event.token_ids),
            tuple(entry for event in events for entry in event.logprobs),
        )

    def running_attempt(self) -> RunningAttempt:
        request = self.request
        admission = Admission(
            request_id=request.request_id,
            attempt=request.attempt,
            prompt_tokens=len(request.token_ids),
            max_new_tokens=request.max_new_tokens,
            page_hashes=request.page_hashes,
        )
        return RunningAttempt(admission, self.cached_tokens)


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
        error=None if event.error is None else portable(event.error, "The engine failed"),
    )


def failed_with(request: GenerationRequest, error: ExlpoolError) -> Finished:
    return Finished(reason=FinishReason.ERROR, prompt_tokens=len(request.token_ids), completion_tokens=0, error=error)


def portable(error: BaseException, what: str) -> ExlpoolError:
    """An error that every process of the pool can read: one of ours as it is, any other in words.

    An engine's own errors may hold what cannot be pickled, or need a library that a front has not; one such message
    would end the stream of all.
    """
    if isinstance(error, ExlpoolError):
        return error
    return EngineFailure(f"{what}: {type(error).__name__}: {error}")
