"""The simulated engine's tokens: a hash of the whole sequence before them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

FIRST_TOKEN = 4
"""Smaller ids are never made: they stand for special tokens."""
EOS_TOKEN = 2
_MASK = 2**64 - 1
_CHAIN = 6364136223846793005  # Knuth's M_MIX multiplier
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: multiplicative hashing


def expected_tokens(
    token_ids: Sequence[int], count: int, seed: int | None = None, *, vocab_size: int = 2048
) -> tuple[int, ...]:
    """The first `count` tokens that the engine makes for a prompt; `seed` None is greedy."""
    state, salt = prompt_state(token_ids), salt_of(seed)
    tokens = []
    for _ in range(count):
        token = next_token(state, salt, vocab_size - FIRST_TOKEN)
        state = next_state(state, token)
        tokens.append(token)
    return tuple(tokens)


def next_token(state: int, salt: int, choices: int) -> int:
    """One of `choices` ids, from the state of the sequence before it."""
    return FIRST_TOKEN + (((state ^ salt) * _MIX & _MASK) >> 33) % choices


def next_state(state: int, token: int) -> int:
    return (state * _CHAIN + token + 1) & _MASK


def prompt_state(token_ids: Sequence[int]) -> int:
    """A polynomial hash modulo 2**64: appending a token is one multiplication and one addition."""
    ids = np.asarray(token_ids, dtype=np.uint64)
    powers = _powers(1 << (len(ids) - 1).bit_length())[-len(ids) :]
    return int(np.dot(ids + np.uint64(1), powers))


@lru_cache(maxsize=32)
def _powers(count: int) -> np.ndarray:
    """`count` powers of the multiplier, the highest first."""
    factors = np.full(count, _CHAIN, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)[::-1]


def salt_of(seed: int | None) -> int:
    """What tells the tokens of one seed from those of another; None is greedy."""
    return 0 if seed is None else (seed + 1) * _CHAIN & _MASK
