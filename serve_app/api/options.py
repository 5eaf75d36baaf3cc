"""A request's fields become the pool's options; what the pool refuses comes back under the field's own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from actors.errors import ExlpoolError, InvalidRequest, UnsupportedParameter
from actors.request.options import RequestOptions, request_options
from actors.results import Priority
from actors.sampling import MAX_SEED
from serve_app.api.schemas.chat import ChatCompletionRequest
from serve_app.api.schemas.common import GenerationFields
from serve_app.api.schemas.completions import CompletionRequest
from serve_app.caller import Caller
from serve_app.config import ApiLimits
from serve_app.errors import PriorityNotAllowed

_SAME_NAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "top_a",
    "skew",
    "temperature_last",
    "smoothing_factor",
    "min_temp",
    "max_temp",
    "temp_exponent",
    "xtc_probability",
    "xtc_threshold",
    "mirostat_tau",
    "mirostat_eta",
    "repetition_penalty",
    "repetition_range",
    "repetition_decay",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_range",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "banned_strings",
    "token_healing",
)
_RANKS = {Priority.BATCH: 0, Priority.DEFAULT: 1, Priority.INTERACTIVE: 2}


def pool_options(
    request: ChatCompletionRequest | CompletionRequest,
    caller: Caller,
    default_priority: Priority,
    limits: ApiLimits,
    constraint: Mapping[str, Any],
) -> RequestOptions:
    """The options of the request's first completion. `constraint` is the grammar that was made of its fields.

    :raises ExlpoolError: a value that the pool does not take, under the name that the request has for it.
    """
    with own_names(request):
        return request_options(
            priority=_priority(request.priority, caller, default_priority),
            tenant=caller.tenant,
            timeout_s=request.timeout_s or limits.default_timeout_s,
            logprobs=_logprobs(request),
            max_new_tokens=max_new_tokens(request),
            seed=None if request.seed is None else request.seed % (MAX_SEED + 1),
            **_samplers(request),
            **constraint,
        )


def with_own_seed(options: RequestOptions, choice: int) -> RequestOptions:
    """Options of a further completion of the same prompt: another seed, where one was asked for."""
    seed = options.params.seed
    if seed is None or choice == 0:
        return options
    return replace(options, params=replace(options.params, seed=(seed + choice) % (MAX_SEED + 1)))


def max_new_tokens(request: GenerationFields) -> int | None:
    if isinstance(request, ChatCompletionRequest) and request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens


@contextmanager
def own_names(request: GenerationFields) -> Iterator[None]:
    """Errors that name a field of the pool name that of the request instead."""
    try:
        yield
    except ExlpoolError as error:
        name = _own_name(request, error.param)
        if name == error.param:
            raise
        message = error.message if error.param == "prompt" else error.message.replace(str(error.param), str(name))
        raise type(error)(message, retry_after_s=error.retry_after_s, param=name) from None


def _own_name(request: GenerationFields, param: str | None) -> str | None:
    chat = isinstance(request, ChatCompletionRequest)
    match param:
        case "max_new_tokens":
            newer = isinstance(request, ChatCompletionRequest) and request.max_completion_tokens is not None
            return "max_completion_tokens" if newer else "max_tokens"
        case "min_new_tokens":
            return "min_tokens"
        case "mirostat":
            return "mirostat_mode"
        case "prompt" | "token_ids" if chat:
            return "messages"
        case "token_ids":
            return "prompt"
        case "logprobs" if chat and request.logprobs is True:  # type: ignore[attr-defined]
            return "top_logprobs"
        case "json_schema" | "regex" | "lark":
            return _constraint_name(request)
    return param


def _constraint_name(request: GenerationFields) -> str:
    given = (name for name in ("guided_json", "guided_regex", "guided_grammar") if getattr(request, name) is not None)
    fallback = "tools" if isinstance(request, ChatCompletionRequest) and request.tools else "response_format"
    return next(given, fallback)


def _priority(wanted: Priority | None, caller: Caller, default: Priority) -> Priority:
    best = caller.max_priority
    if wanted is None:
        return min(default, best, key=_RANKS.__getitem__)
    if _RANKS[wanted] > _RANKS[best]:
        raise PriorityNotAllowed(f"This key may ask for priority {best} at most, not {wanted}.", param="priority")
    return wanted


def _logprobs(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _samplers(request: GenerationFields) -> dict[str, Any]:
    """Sampling parameters that were given. Where EXL2 servers know another value for "off", it becomes ours."""
    values = {name: getattr(request, name) for name in _SAME_NAME}
    values["min_new_tokens"] = request.min_tokens
    values["top_k"] = None if request.top_k == -1 else request.top_k
    values["typical_p"] = None if request.typical_p == 1.0 else request.typical_p
    values["tfs"] = None if request.tfs == 1.0 else request.tfs
    values["mirostat"] = _mirostat(request)
    values["logit_bias"] = request.logit_bias and {int(name): bias for name, bias in request.logit_bias.items()}
    if request.dry_sequence_breakers:
        raise UnsupportedParameter(
            "dry_sequence_breakers is not supported: DRY looks at all tokens.", param="dry_sequence_breakers"
        )
    return {name: value for name, value in values.items() if value is not None}


def _mirostat(request: GenerationFields) -> bool | None:
    if request.mirostat_mode == 1:
        raise UnsupportedParameter("mirostat_mode 1 is not supported: use 2.", param="mirostat_mode")
    return None if request.mirostat_mode is None else request.mirostat_mode == 2
