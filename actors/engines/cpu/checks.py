"""What the CPU engine refuses before it takes a job, since it would harm the jobs that it runs with."""

from __future__ import annotations

from collections.abc import Iterable

from actors.engines.base import EngineJob
from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.messages import WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed

SUPPORTED_PARAMETERS = frozenset(
    {
        "max_new_tokens",
        "min_new_tokens",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "repetition_range",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "json_schema",
        "regex",
        "lark",
    }
)


def check_job(job: EngineJob, limits: WorkerLimits) -> None:
    """:raises InvalidRequest: the engine with these limits cannot do the job, or not without harm to others."""
    unsupported = sorted(job.params.changed() - limits.supported_parameters)
    if unsupported:
        raise UnsupportedParameter(f"The CPU engine does not support {unsupported[0]}.", param=unsupported[0])
    if not job.token_ids:
        raise InvalidRequest("The prompt is empty: give at least one token.", param="token_ids")
    _check_ids("token_ids", job.token_ids, limits)
    _check_ids("stop_token_ids", job.params.stop_token_ids, limits)
    _check_ids("logit_bias", job.params.logit_bias, limits)
    if job.max_new_tokens < 1:
        raise InvalidRequest(f"max_new_tokens must be at least 1, not {job.max_new_tokens}.", param="max_new_tokens")
    _check_length(job, limits)


def _check_ids(param: str, token_ids: Iterable[int], limits: WorkerLimits) -> None:
    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < limits.vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{param} holds {wrong}, but the model's token ids are 0 to {limits.vocab_size - 1}.", param=param
        )


def _check_length(job: EngineJob, limits: WorkerLimits) -> None:
    prompt_tokens = len(job.token_ids)
    tokens = prompt_tokens + job.max_new_tokens
    asked = f"The prompt has {prompt_tokens} tokens and max_new_tokens is {job.max_new_tokens}"
    if tokens > limits.context_tokens:
        raise ContextLengthExceeded(
            f"{asked}, but the context is {limits.context_tokens} tokens: shorten one of them.", param="max_new_tokens"
        )
    if pages_needed(tokens) > limits.total_pages:
        raise ContextLengthExceeded(
            f"{asked}, but the cache holds {limits.total_pages * PAGE_TOKENS} tokens: shorten one of them.",
            param="max_new_tokens",
        )
