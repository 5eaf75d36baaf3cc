"""What is looked at before a request may wait: is it well formed, could any worker run it, who is to be told what."""

from __future__ import annotations

from collections.abc import Sequence

from actors.messages import Admission, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed

MOST = 2**31
"""No number of a request may be larger, so that none of them overflows where it is reckoned with."""


def fault(admission: Admission) -> str | None:
    """What is wrong with an admission, as a sentence, or None."""
    for name in ("attempt", "prompt_tokens", "max_new_tokens"):
        value = getattr(admission, name)
        if value < 1:
            return f"{name} must be at least 1, not {value}."
        if value > MOST:
            return f"{name} is beyond reason."
    for name in ("age_s", "waited_s"):
        value = getattr(admission, name)
        if not 0.0 <= value <= MOST:
            return f"{name} is no time that can have passed: {value}."
    if admission.timeout_s is not None and not admission.timeout_s > 0:
        return f"timeout_s must be above 0, not {admission.timeout_s}."
    pages = len(admission.page_hashes)
    if pages > (admission.prompt_tokens - 1) // PAGE_TOKENS:
        return f"{pages} page hashes are too many for {admission.prompt_tokens} prompt tokens."
    if len(set(admission.page_hashes)) != pages:
        return "A page hash occurs twice: every page of a prompt has its own."
    return None


def was_let_in(admission: Admission) -> bool:
    """Whether it has waited or run before, so that it is no newcomer, who may be sent away."""
    return admission.attempt > 1 or admission.waited_s > 0.0


def limits_fault(limits: WorkerLimits) -> str | None:
    """What is wrong with a worker's limits, or None."""
    for name in ("context_tokens", "total_pages", "max_batch_size"):
        if getattr(limits, name) < 1:
            return f"worker with an impossible {name}"
    return "worker with an impossible reserve_tokens" if limits.reserve_tokens < 0 else None


def size_message(admission: Admission, limits: Sequence[WorkerLimits]) -> str:
    """Why no worker of these limits can ever run the request."""
    tokens = admission.prompt_tokens + admission.max_new_tokens
    return (
        f"{admission.prompt_tokens} prompt tokens and up to {admission.max_new_tokens} new ones need "
        f"{pages_needed(tokens)} pages of {PAGE_TOKENS} tokens; the largest worker has "
        f"{max(limit.total_pages for limit in limits)} pages and a context of "
        f"{max(limit.context_tokens for limit in limits)} tokens."
    )
