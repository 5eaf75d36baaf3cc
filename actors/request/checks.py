"""Checks of a request against what workers can take, before any engine sees it. Pure.

One bad job inside ExLlamaV2 takes its whole batch down, so nothing that could do that gets past here. Token ids are
looked at here and nowhere else; engines check again, with the same functions, what depends on their own limits
(`actors.engines.checks`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.messages import WorkerLimits
from actors.paging.hashes import PAGE_TOKENS
from actors.sampling import SamplingParams

TokenIds = Sequence[int] | NDArray[np.int64]


def validate_request(
    token_ids: TokenIds, params: SamplingParams, limits: Sequence[WorkerLimits], default_max_new_tokens: int
) -> int:
    """Check a request; returns its `max_new_tokens`: the one asked for, else the default or what is left if less.

    It must fit at least one of the workers that `limits` describe (none: a programming error).

    :raises InvalidRequest: empty prompt, ids outside the vocabulary, a parameter out of the model's range.
    :raises UnsupportedParameter: a parameter that no worker honours, by name.
    :raises ContextLengthExceeded: prompt and completion together fit no worker.
    """
    if len(token_ids) == 0:
        raise InvalidRequest("The prompt is empty: give at least one token.", param="prompt")
    vocab_size = min(limit.vocab_size for limit in limits)
    _check_ids("prompt", token_ids, vocab_size)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    _check_ids("logit_bias", tuple(params.logit_bias), vocab_size)
    check_supported(params, limits)
    return resolve_max_new_tokens(len(token_ids), params, limits, default_max_new_tokens)


def room_tokens(limit: WorkerLimits) -> int:
    """Prompt and completion tokens that one request may have on this worker: its context, or its pages if fewer."""
    return min(limit.context_tokens, limit.total_pages * PAGE_TOKENS) - limit.reserve_tokens


def check_supported(params: SamplingParams, limits: Sequence[WorkerLimits]) -> None:
    """:raises UnsupportedParameter: none of the workers honours all parameters that were changed; names one of them."""
    changed = params.changed()
    for limit in limits:
        if changed <= limit.supported_parameters:
            return
    missing = sorted(changed - limits[0].supported_parameters)
    raise UnsupportedParameter(f"The {limits[0].engine} engine does not support {missing[0]}.", param=missing[0])


def check_length(prompt_tokens: int, max_new_tokens: int, room: int) -> None:
    """:raises ContextLengthExceeded: prompt and completion together have more than `room` tokens, or would have with
    any completion."""
    if prompt_tokens >= room:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {room} tokens, for prompt and completion together, but the prompt "
            f"has {prompt_tokens}.",
            param="prompt",
        )
    if prompt_tokens + max_new_tokens > room:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {room} tokens, but the prompt has {prompt_tokens} and "
            f"max_new_tokens is {max_new_tokens}.",
            param="max_new_tokens",
        )


def resolve_max_new_tokens(
    prompt_tokens: int, params: SamplingParams, limits: Sequence[WorkerLimits], default_max_new_tokens: int
) -> int:
    """How many tokens a request may generate: as many as it asks for, else the default or what is left if less.

    :raises ContextLengthExceeded: prompt and completion together fit no worker.
    """
    room = max(room_tokens(limit) for limit in limits)
    check_length(prompt_tokens, 1, room)
    # Asked for: that much, or an error. Not asked for: the default, or what is left of the context if that is less, so
    # that a long prompt is not refused for a length that nobody chose; but `min_new_tokens` at least, if they fit.
    wanted = params.max_new_tokens
    if wanted is None:
        wanted = max(min(default_max_new_tokens, room - prompt_tokens), 1)
        if wanted < params.min_new_tokens <= room - prompt_tokens:
            wanted = params.min_new_tokens
    check_length(prompt_tokens, max(wanted, params.min_new_tokens), room)
    return wanted


def _check_ids(param: str, token_ids: TokenIds, vocab_size: int) -> None:
    if len(token_ids) == 0:
        return
    ends = (token_ids.min(), token_ids.max()) if isinstance(token_ids, np.ndarray) else (min(token_ids), max(token_ids))
    for worst in ends:
        if not 0 <= worst < vocab_size:
            raise InvalidRequest(
                f"{param}: token id {worst} is outside the vocabulary of {vocab_size} tokens.", param=param
            )
