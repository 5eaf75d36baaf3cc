"""One job inside the simulated engine."""

from __future__ import annotations

from actors.engines.base import Ended, EngineJob
from actors.engines.simulated.tokens import prompt_state, salt_of
from actors.engines.text import CompletionText
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.paging.table import Allocation
from actors.results import FinishReason


class SimulatedJob:
    """A job from submission to its end. Until `quiet_until` completion tokens nothing can happen but the next token."""

    __slots__ = (
        "allocation",
        "first_token_s",
        "generated",
        "job",
        "job_id",
        "quiet_until",
        "salt",
        "started_s",
        "state",
        "stop_ids",
        "text",
        "token_ids",
        "total_pages",
    )

    def __init__(self, job: EngineJob, text: CompletionText | None) -> None:
        params = job.params
        self.job = job
        self.job_id = job.job_id
        self.total_pages = pages_needed(len(job.token_ids) + job.max_new_tokens)
        self.state = prompt_state(job.token_ids)
        self.salt = salt_of(None if params.temperature == 0 else job.seed)
        self.token_ids = list(job.token_ids)
        self.text = text
        self.stop_ids = frozenset(params.stop_token_ids)
        self.generated = 0
        self.quiet_until = 0
        self.allocation: Allocation | None = None
        self.started_s = self.first_token_s = 0.0

    def __repr__(self) -> str:
        state = "pending" if self.allocation is None else f"{self.allocation.position} tokens computed"
        return f"<SimulatedJob {self.job_id}: {state}, {self.generated} of {self.job.max_new_tokens} generated>"

    @property
    def computed_tokens(self) -> int:
        """Tokens whose keys and values are there once the prompt is done: all but the newest."""
        return len(self.job.token_ids) - 1 + self.generated

    def plan(self) -> None:
        """Find the next token after which something is to be done: the first, one that fills a page, the last."""
        if self.text is not None or self.stop_ids or not self.generated:
            self.quiet_until = self.generated + 1
            return
        until_full = PAGE_TOKENS - self.computed_tokens % PAGE_TOKENS
        self.quiet_until = min(self.generated + until_full, self.job.max_new_tokens)

    def ended(
        self, reason: FinishReason, now_s: float, *, stop_token_id: int | None = None, stop_string: str | None = None
    ) -> Ended:
        first_s = self.first_token_s if self.generated else now_s
        return Ended(
            job_id=self.job_id,
            reason=reason,
            completion_tokens=self.generated,
            cached_tokens=0 if self.allocation is None else self.allocation.cached_tokens,
            prefill_s=0.0 if self.allocation is None else first_s - self.started_s,
            generate_s=now_s - first_s,
            stop_token_id=stop_token_id,
            stop_string=stop_string,
        )
