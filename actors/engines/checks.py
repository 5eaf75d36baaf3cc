"""What every engine refuses by itself, even from an owner that did not check: jobs that would harm the others."""

from __future__ import annotations

from actors.engines.base import EngineJob
from actors.errors import InvalidRequest
from actors.messages import WorkerLimits
from actors.paging.hashes import shareable_pages
from actors.request.checks import check_length, check_supported, room_tokens


def check_job(job: EngineJob, limits: WorkerLimits) -> None:
    """Check a job in constant time. Its token ids are not looked at (see `EngineJob`).

    :raises InvalidRequest: an engine with these limits cannot do the job.
    :raises ValueError: the owner broke the contract of `EngineJob`.
    """
    if not job.token_ids:
        raise InvalidRequest("The prompt is empty: give at least one token.", param="prompt")
    if job.max_new_tokens < 1:
        raise InvalidRequest(f"max_new_tokens must be at least 1, not {job.max_new_tokens}.", param="max_new_tokens")
    named = shareable_pages(len(job.token_ids))
    if len(job.page_hashes) != named:
        raise ValueError(f"The job's prompt has {named} pages with a name, and {len(job.page_hashes)} names came.")
    check_supported(job.params, (limits,))
    check_length(len(job.token_ids), job.max_new_tokens, room_tokens(limits))
