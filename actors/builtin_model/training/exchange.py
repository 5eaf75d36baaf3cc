"""One question with its answer: what every chat task yields."""

from collections.abc import Callable
from typing import NamedTuple

from actors.builtin_model.training.corpus_random import CorpusRandom


class Exchange(NamedTuple):
    """What a user asks and what the model should answer."""

    question: str
    answer: str


Task = Callable[[CorpusRandom], Exchange]
