"""Names of pages: the chain is that of ExLlamaV2, and what is shared is what was computed."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.paging.hashes import PAGE_TOKENS, next_hash, page_hashes, pages_needed


def plain_name(parent: bytes, token_ids: list[int]) -> bytes:
    """BLAKE2b-128 over the parent's name and the ids as little-endian int64."""
    return hashlib.blake2b(parent + struct.pack(f"<{len(token_ids)}q", *token_ids), digest_size=16).digest()


def test_a_name_is_a_hash_over_the_parent_and_the_ids() -> None:
    ids = list(range(2 * PAGE_TOKENS + 1))
    first = plain_name(b"", ids[:PAGE_TOKENS])
    assert page_hashes(ids) == (first, plain_name(first, ids[PAGE_TOKENS : 2 * PAGE_TOKENS]))
    assert next_hash(None, ids[:PAGE_TOKENS]) == first
    assert next_hash(first, np.arange(PAGE_TOKENS, 2 * PAGE_TOKENS)) == page_hashes(ids)[1]


@pytest.mark.parametrize(("tokens", "shareable"), [(0, 0), (1, 0), (256, 0), (257, 1), (512, 1), (513, 2)])
def test_the_page_that_the_last_token_is_in_is_not_shared(tokens: int, shareable: int) -> None:
    assert len(page_hashes(range(tokens))) == shareable


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (256, 1), (257, 2), (512, 2)])
def test_pages_needed_rounds_up(tokens: int, pages: int) -> None:
    assert pages_needed(tokens) == pages


@given(st.integers(0, 700), st.integers(0, 700))
def test_names_agree_exactly_as_far_as_the_texts_do(common: int, place: int) -> None:
    one = list(range(800))
    other = [*one[:common], *(id_ + 1 for id_ in one[common:])]
    shared = common // PAGE_TOKENS
    names, others = page_hashes(one), page_hashes(other)
    assert names[:shared] == others[:shared]
    assert not set(names[shared:]) & set(others[shared:])
    assert page_hashes(one[: place + 1]) == names[: place // PAGE_TOKENS]


@given(st.integers(0, 1100), st.integers(0, 1100))
def test_names_that_are_known_are_not_computed_again(before: int, after: int) -> None:
    ids = list(range(1100))
    known = page_hashes(ids[:before])
    assert page_hashes(ids[:after], known) == page_hashes(ids[:after])
    if len(known) >= 1 and after > PAGE_TOKENS:
        assert page_hashes(ids[:after], (b"as told", *known[1:]))[0] == b"as told"
