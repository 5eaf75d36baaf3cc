"""Pages of the key-value cache: 256 tokens each, named by the same hash chain that ExLlamaV2 and ExLlamaV3 use.

Everybody who predicts or mirrors an engine's cache (fronts, the dispatcher's ledger, the CPU and simulated engines)
computes names here, so a prefix hit is known exactly and without asking the engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

PAGE_TOKENS = 256


def pages_needed(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_TOKENS)


def next_hash(parent: bytes | None, token_ids: Sequence[int] | np.ndarray) -> bytes:
    """The name of a full page: BLAKE2b-128 over the parent's name (none for the first page) and the page's 256 token
    ids as little-endian int64. Source: `_tensor_hash_checksum` in exllamav2/generator/dynamic.py, 0.3.2."""
    digest = hashlib.blake2b(digest_size=16)
    if parent is not None:
        digest.update(parent)
    digest.update(np.asarray(token_ids, dtype="<i8").tobytes())
    return digest.digest()


def page_hashes(token_ids: Sequence[int]) -> tuple[bytes, ...]:
    """Names of a prompt's shareable pages, `(len - 1) // 256` of them: the last token is always computed anew, since
    its logits are needed, so a page that ends with it is not shared."""
    ids = np.asarray(token_ids, dtype="<i8")
    names: list[bytes] = []
    parent: bytes | None = None
    for page in range(max(len(ids) - 1, 0) // PAGE_TOKENS):
        parent = next_hash(parent, ids[page * PAGE_TOKENS : (page + 1) * PAGE_TOKENS])
        names.append(parent)
    return tuple(names)
