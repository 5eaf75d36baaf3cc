"""Pages of the key-value cache: 256 tokens each, named by the same hash chain that ExLlamaV2 and ExLlamaV3 use.

Everybody who predicts or mirrors an engine's cache (fronts, the dispatcher's ledger, the CPU and simulated engines)
computes names here, so a prefix hit is known exactly and without asking the engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS = 256


def pages_needed(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_TOKENS)


def shareable_pages(tokens: int) -> int:
    """Pages of a prompt of `tokens` tokens that have a name. The last token is always computed anew, since its logits
    are needed, so a page that ends with it is not shared."""
    return max(tokens - 1, 0) // PAGE_TOKENS


def next_hash(parent: bytes | None, token_ids: Sequence[int] | np.ndarray) -> bytes:
    """The name of a full page: BLAKE2b-128 over the parent's name (none for the first page) and the page's 256 token
    ids as little-endian int64. Source: `_tensor_hash_checksum` in exllamav2/generator/dynamic.py, 0.3.2."""
    digest = hashlib.blake2b(digest_size=16)
    if parent is not None:
        digest.update(parent)
    digest.update(np.asarray(token_ids, dtype="<i8").tobytes())
    return digest.digest()


def page_hashes(token_ids: Sequence[int] | NDArray[np.int64], known: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Names of a prompt's shareable pages, as many as `shareable_pages` says.

    `known` are the names of its first pages, where a shorter beginning of it was named before: only the others are
    computed, so a prompt that grows by a completion costs what it has grown by.
    """
    names = list(known[: shareable_pages(len(token_ids))])
    first = len(names) * PAGE_TOKENS
    ids = np.asarray(token_ids[first:], dtype="<i8")
    parent = names[-1] if names else None
    for start in range(0, (shareable_pages(len(token_ids)) - len(names)) * PAGE_TOKENS, PAGE_TOKENS):
        parent = next_hash(parent, ids[start : start + PAGE_TOKENS])
        names.append(parent)
    return tuple(names)
