"""The request that is made of what a caller asks for: tokenised, checked, with everything resolved. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.messages import WorkerLimits
from actors.paging.hashes import page_hashes
from actors.request.checks import TokenIds, validate_request
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt, PromptEncoder
from actors.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request that every worker it may reach can take. `max_new_tokens` and `seed` are resolved, `page_hashes` are
    those of `token_ids`."""

    request_id: str
    token_ids: tuple[int, ...]
    page_hashes: tuple[bytes, ...]
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
    """Tokenise and check a request, and name the pages of its prompt: the one time that its token ids are gone over.

    :raises InvalidRequest: the prompt or a parameter is wrong.
    :raises ContextLengthExceeded: no worker has room for it.
    """
    token_ids = encoder.encode(prompt, options.template)
    ids = _as_array(token_ids)
    max_new_tokens = validate_request(ids, options.params, limits, default_max_new_tokens)
    seed = options.params.seed
    return PreparedRequest(
        request_id=secrets.token_hex(12),
        token_ids=token_ids,
        page_hashes=page_hashes(ids),
        max_new_tokens=max_new_tokens,
        seed=secrets.randbits(63) if seed is None else seed,
        params=options.params,
        options=options,
    )


def _as_array(token_ids: tuple[int, ...]) -> TokenIds:
    """The ids as numpy's 64-bit integers, over which checks and hashes go fast. Ids that do not fit into these are left
    as they are: no vocabulary is so large, so the check refuses them by name."""
    try:
        return np.fromiter(token_ids, dtype="<i8", count=len(token_ids))
    except OverflowError:
        return token_ids
