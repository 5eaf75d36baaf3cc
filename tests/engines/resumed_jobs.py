"""What somebody submits who has lost a worker in the middle of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.engines.base import EngineJob
from actors.paging.hashes import page_hashes


def resumed(job: EngineJob, token_ids: Sequence[int]) -> EngineJob:
    """The job that makes what follows on the first tokens of a job's completion."""
    ids = (*job.token_ids, *token_ids)
    return replace(
        job,
        token_ids=ids,
        page_hashes=page_hashes(ids),
        max_new_tokens=job.max_new_tokens - len(token_ids),
        resumed_tokens=job.resumed_tokens + len(token_ids),
    )
