"""What the engine knows of a job while the generator runs it, and the events that a step makes of it."""

from __future__ import annotations

import time

from actors.engines.base import Emitted, Ended, EngineEvent, EngineJob, Prefilled
from actors.engines.exllamav2.job import EndCause, PoolJob
from actors.engines.text import CompletionText, Pieces, StopStrings
from actors.results import FinishReason, TokenLogprobs


class JobTrack:
    """Turns a job's sampled ids into text and events. `over` is set with the terminal event."""

    def __init__(self, job: EngineJob, pool_job: PoolJob, pieces: Pieces) -> None:
        self.pool_job = pool_job
        self.over = False
        self._job_id = job.job_id
        self._min_new_tokens = job.params.min_new_tokens
        stops = StopStrings(job.params.stop) if job.params.stop else None
        opening = pool_job.opening
        self._text = CompletionText(pieces, opening.token_ids, stops, skipped=opening.to_heal)
        self._pushed = job.resumed_tokens
        """Of the ids of `pool_job.sampled`, those that became text."""
        self._released = 0
        """Ids that were emitted."""
        self._seen_prefill = False

    def __repr__(self) -> str:
        state = "over" if self.over else f"{self.pool_job.settled} of {len(self.pool_job.sampled)} tokens settled"
        return f"<JobTrack {self._job_id}: {state}>"

    def prefilled(self, tokens: int) -> list[EngineEvent]:
        """After a chunk of the prompt; silent when it neither computed nor found anything new."""
        cached = self.pool_job.cached_prompt_tokens
        if not tokens and (self._seen_prefill or not cached):
            return []
        self._seen_prefill = True
        return [Prefilled(self._job_id, tokens, cached)]

    def sampled(self) -> list[EngineEvent]:
        """After a decode step: new text, and the end if it has come."""
        job = self.pool_job
        text = ""
        ids: list[int] = []
        while self._pushed < job.settled:
            token_id = job.sampled[self._pushed]
            if job.end is not None and job.end.stop_token_id is not None and self._pushed == len(job.sampled) - 1:
                break
            self._pushed += 1
            may_stop = self._pushed >= self._min_new_tokens
            release = self._text.push(token_id, may_stop=may_stop)
            text, ids = text + release.text, ids + list(release.token_ids)
            if release.stop is not None:
                events = self._emit(text, ids)
                return [*events, self._ended(FinishReason.STOP, stop_string=release.stop)]
        if job.end is None:
            return self._emit(text, ids)
        rest = self._text.finish()
        events = self._emit(text + rest.text, ids + list(rest.token_ids))
        return [*events, self._end_of(job)]

    def cancelled(self) -> Ended:
        return self._ended(FinishReason.CANCELLED)

    def _end_of(self, job: PoolJob) -> Ended:
        assert job.end is not None
        match job.end.cause:
            case EndCause.STOP_TOKEN:
                return self._ended(FinishReason.STOP, stop_token_id=job.end.stop_token_id)
            case EndCause.COMPLETE:
                return self._ended(FinishReason.STOP)
            case EndCause.LENGTH:
                return self._ended(FinishReason.LENGTH)
            case EndCause.FAILURE:
                return self._ended(FinishReason.ERROR, error=job.failure)

    def _emit(self, text: str, token_ids: list[int]) -> list[EngineEvent]:
        if not text and not token_ids:
            return []
        start, self._released = self._released, self._released + len(token_ids)
        logprobs: tuple[TokenLogprobs, ...] = tuple(self.pool_job.logprobs[start : self._released])
        return [Emitted(self._job_id, text, tuple(token_ids), logprobs)]

    def _ended(
        self,
        reason: FinishReason,
        *,
        stop_token_id: int | None = None,
        stop_string: str | None = None,
        error: Exception | None = None,
    ) -> Ended:
        self.over = True
        job = self.pool_job
        started, first = job.time_first_prefill, job.time_first_token
        stopped_early = stop_string is not None
        return Ended(
            job_id=self._job_id,
            reason=reason,
            completion_tokens=self._pushed - job.resumed_tokens if stopped_early else job.new_sampled,
            cached_tokens=job.cached_prompt_tokens if job.generator is not None else 0,
            prefill_s=first - started if first and started else 0.0,
            generate_s=time.time() - first if first else 0.0,
            stop_token_id=stop_token_id,
            stop_string=stop_string,
            error=error,
        )
