"""The request that is made of what a caller asks for: tokenised, checked, with everything resolved. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from actors.messages import WorkerLimits
from actors.request.checks import validate_request
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt, PromptEncoder
from actors.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request that every worker it may reach can take. `max_new_tokens` and `seed` are resolved."""

    request_id: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    params: SamplingParams
    options: RequestOptions


def prepare(
    encoder: PromptEncoder,
    prompt: Prompt,
    options: RequestOptions,
    limits: Sequence[WorkerLimits],
    default_max_new_tokens: int,
) -> PreparedRequest:
    """Tokenise and check a request.

    :raises InvalidRequest: the prompt or a parameter is wrong.
    :raises ContextLengthExceeded: no worker has room for it.
    """
    token_ids = encoder.encode(prompt, options.template)
    max_new_tokens = validate_request(token_ids, options.params, limits, default_max_new_tokens)
    seed = options.params.seed
    return PreparedRequest(
        request_id=secrets.token_hex(12),
        token_ids=token_ids,
        max_new_tokens=max_new_tokens,
        seed=secrets.randbits(63) if seed is None else seed,
        params=options.params,
        options=options,
    )
