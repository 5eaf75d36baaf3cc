"""The random generator of the corpus: fair choices for prompts, one clear favourite for the model's own choices."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

FAVOURITE_SHARE = 0.6
FAVOURITE_SHARE_OF_TWO = 0.7


class CorpusRandom(random.Random):
    """A seeded generator with the two kinds of choice that the corpus needs.

    `choice` is fair. `favourite` takes the first option far more often than any other: where the model is
    free to choose, training on favourites leaves a wide gap between its first and second candidate, and greedy
    decoding then gives the same text on every kind of hardware.
    """

    def favourite(self, options: Sequence[T]) -> T:
        """One of `options`; the first with a share of 0.6 (0.7 of two options), the others equally likely."""
        if len(options) == 1:
            return options[0]
        share = FAVOURITE_SHARE_OF_TWO if len(options) == 2 else FAVOURITE_SHARE
        if self.random() < share:
            return options[0]
        return options[self.randrange(1, len(options))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability
