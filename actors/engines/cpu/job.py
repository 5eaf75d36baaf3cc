"""One job inside the CPU engine, from its start to its end."""

from __future__ import annotations

import time
from collections import deque

from actors.engines.base import Emitted, Ended, EngineEvent, EngineJob
from actors.engines.cpu.adjust import Adjuster
from actors.engines.cpu.cache import Row
from actors.engines.cpu.sampler import Choice
from actors.engines.draws import uniform
from actors.engines.text import CompletionText, Release
from actors.paging.hashes import PAGE_TOKENS
from actors.paging.table import Allocation, Page
from actors.results import FinishReason, TokenLogprobs


class RunningJob:
    """A job that holds pages, a slot and a row.

    `token_ids` is the prompt and the completion so far, `row` holds the keys and values of its first `row.length`
    tokens, `stop_ids` end the completion.
    """

    def __init__(
        self,
        job: EngineJob,
        pages: Allocation,
        row: Row,
        text: CompletionText,
        adjuster: Adjuster,
        stop_ids: frozenset[int],
    ) -> None:
        self.job = job
        self.pages = pages
        self.row = row
        self.adjuster = adjuster
        self.token_ids = list(job.token_ids)
        self.prompt_tokens = len(job.token_ids)
        """Of this job: what has to be computed before its first token, a resumed completion's beginning included."""
        self._text = text
        self._stop_ids = stop_ids
        self._completion_tokens = 0
        self._logprobs: deque[TokenLogprobs] = deque()
        self._started_at_s = time.monotonic()
        self._first_token_at_s: float | None = None

    def __repr__(self) -> str:
        return (
            f"<RunningJob {self.job.job_id}: {self.row.length} of {len(self.token_ids)} tokens computed, "
            f"{self._completion_tokens} of {self.job.max_new_tokens} generated>"
        )

    def prompt_pages(self) -> list[Page]:
        """The pages that the prompt may share: those that it fills, without the one that ends with its last token."""
        return self.pages.pages[: (self.prompt_tokens - 1) // PAGE_TOKENS]

    def choice(self) -> Choice:
        """How its next token is to be drawn."""
        params = self.job.params
        if params.temperature == 0:
            return Choice(0.0)
        draw = uniform(self.job.seed, len(self.token_ids))
        return Choice(params.temperature, params.top_k, params.top_p, params.min_p, draw)

    def accept(self, token_id: int, logprobs: TokenLogprobs | None, events: list[EngineEvent]) -> bool:
        """Take the token that was drawn, tell what it makes visible, and return whether the job has ended with it.

        :raises InvalidRequest: the grammar turned out too complex; nothing has been told.
        """
        if self._first_token_at_s is None:
            self._first_token_at_s = time.monotonic()
        self._completion_tokens += 1
        if token_id in self._stop_ids:
            self._emit(self._text.finish(), events)
            events.append(self.ended(FinishReason.STOP, stop_token_id=token_id))
            return True
        self.adjuster.accept(token_id)
        self.token_ids.append(token_id)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        length_tokens = self.job.resumed_tokens + self._completion_tokens
        release = self._text.push(token_id, may_stop=length_tokens >= self.job.params.min_new_tokens)
        reason = self._reason_to_end(release)
        if reason is not None and release.stop is None:
            rest = self._text.finish()
            release = Release(release.text + rest.text, release.token_ids + rest.token_ids)
        self._emit(release, events)
        if reason is not None:
            events.append(self.ended(reason, stop_string=release.stop))
        return reason is not None

    def _reason_to_end(self, release: Release) -> FinishReason | None:
        grammar = self.adjuster.grammar
        if release.stop is not None or (grammar is not None and grammar.complete):
            return FinishReason.STOP
        return FinishReason.LENGTH if self._completion_tokens >= self.job.max_new_tokens else None

    def _emit(self, release: Release, events: list[EngineEvent]) -> None:
        if not release.text and not release.token_ids:
            return
        logprobs = tuple(self._logprobs.popleft() for _ in release.token_ids) if self._logprobs else ()
        events.append(Emitted(self.job.job_id, release.text, release.token_ids, logprobs))

    def ended(
        self,
        reason: FinishReason,
        *,
        stop_token_id: int | None = None,
        stop_string: str | None = None,
        error: Exception | None = None,
    ) -> Ended:
        """Its terminal event, as of now."""
        now_s = time.monotonic()
        first_s = now_s if self._first_token_at_s is None else self._first_token_at_s
        return Ended(
            job_id=self.job.job_id,
            reason=reason,
            completion_tokens=self._completion_tokens,
            cached_tokens=self.pages.cached_tokens,
            prefill_s=first_s - self._started_at_s,
            generate_s=now_s - first_s,
            stop_token_id=stop_token_id,
            stop_string=stop_string,
            error=error,
        )
