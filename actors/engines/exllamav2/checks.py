"""What the ExLlamaV2 engine refuses before it submits a job: one bad job inside the library takes its batch down."""

from __future__ import annotations

from collections.abc import Iterable

from actors.engines.base import EngineJob
from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.messages import WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.sampling import PARAMETER_NAMES

DRY_MAX_NGRAM = 20
"""`dry_max_ngram` of the library; it asserts that a bounded `dry_range` is longer."""


def supported_parameters(*, drafting: bool) -> frozenset[str]:
    """Parameters that are honoured. Going back over tokens (banned strings) or healing one cannot be combined with
    drafted tokens in the library's loop."""
    return PARAMETER_NAMES - {"banned_strings", "token_healing"} if drafting else PARAMETER_NAMES


def check_job(job: EngineJob, limits: WorkerLimits) -> None:
    """:raises InvalidRequest: an engine with these limits cannot do the job, or not without harm to others."""
    params = job.params
    unsupported = sorted(params.changed() - limits.supported_parameters)
    if unsupported:
        raise UnsupportedParameter(
            f"The ExLlamaV2 engine does not support {unsupported[0]} while it drafts tokens.", param=unsupported[0]
        )
    if not job.token_ids:
        raise InvalidRequest("The prompt is empty: give at least one token.", param="prompt")
    _check_ids("prompt", job.token_ids, limits)
    _check_ids("stop_token_ids", params.stop_token_ids, limits)
    _check_ids("logit_bias", params.logit_bias, limits)
    if job.max_new_tokens < 1:
        raise InvalidRequest(f"max_new_tokens must be at least 1, not {job.max_new_tokens}.", param="max_new_tokens")
    if 0 < params.dry_range <= DRY_MAX_NGRAM:
        raise InvalidRequest(f"dry_range is 0 or above {DRY_MAX_NGRAM}, not {params.dry_range}.", param="dry_range")
    _check_length(job, limits)


def _check_ids(param: str, token_ids: Iterable[int], limits: WorkerLimits) -> None:
    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < limits.vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{param} holds {wrong}, but the model's token ids are 0 to {limits.vocab_size - 1}.", param=param
        )


def _check_length(job: EngineJob, limits: WorkerLimits) -> None:
    """The library never looks at the context's length, and its RoPE kernel reads behind its table."""
    prompt_tokens = len(job.token_ids)
    tokens = prompt_tokens + job.max_new_tokens + limits.reserve_tokens
    asked = f"The prompt has {prompt_tokens} tokens and max_new_tokens is {job.max_new_tokens}"
    if tokens > limits.context_tokens:
        raise ContextLengthExceeded(
            f"{asked}, but the context is {limits.context_tokens - limits.reserve_tokens} tokens: shorten one of them.",
            param="max_new_tokens",
        )
    if pages_needed(tokens) > limits.total_pages:
        raise ContextLengthExceeded(
            f"{asked}, but the cache holds {limits.total_pages * PAGE_TOKENS} tokens: shorten one of them.",
            param="max_new_tokens",
        )
