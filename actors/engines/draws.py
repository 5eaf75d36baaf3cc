"""Random numbers that a completion draws, each a function of what is known of its place: so one that goes on elsewhere
draws what it would have drawn here, and none depends on its company in a batch.

The function is SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

_MASK_64 = 2**64 - 1
_AGAIN = 2**63
"""Keeps what a place draws when it is tried again apart from the states behind one more token, whose ids are far
smaller."""


def uniform(seed: int, position: int) -> float:
    """The draw in [0, 1) at a position: two rounds of SplitMix64, top 53 bits."""
    return _fraction(_mix(_mix(seed & _MASK_64) + position))


class Draws:
    """The draws of one completion, whose tokens may be taken back.

    A draw follows from the seed, from the tokens before its place, and from how many tokens were tried at the place: a
    place that is tried again, or behind other tokens, has a draw that owes nothing to the one before.
    """

    def __init__(self, seed: int, token_ids: Iterable[int] = ()) -> None:
        """`token_ids` are the completion's beginning, where it is resumed."""
        self._states = array("Q", (_mix(seed & _MASK_64),))
        """Behind the seed alone, and behind each token."""
        for token_id in token_ids:
            self.add(token_id)

    def draw(self, tried: int = 0) -> float:
        """The draw in [0, 1) for the next token, where so many were tried and taken back; the same if asked again."""
        state = self._states[-1]
        return _fraction(_mix(state + _AGAIN + tried) if tried else state)

    def add(self, token_id: int) -> None:
        self._states.append(_mix(self._states[-1] + token_id))

    def take_back(self, count: int) -> None:
        """Forget the last `count` tokens."""
        del self._states[len(self._states) - count :]


def _fraction(bits: int) -> float:
    """The top 53 of 64 bits as a number in [0, 1)."""
    return (bits >> 11) / 2**53


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
