"""The endless streams of documents that the model is trained on, deterministic by seed."""

from collections.abc import Iterator
from dataclasses import dataclass

from actors.builtin_model.training.conversations import (
    Conversation,
    long_conversation,
    reading_conversation,
    short_conversation,
)
from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.stories import tell_story

COPY_SHARE = 0.12
STORY_SHARE = 0.15
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Story:
    """A plain text without roles."""

    text: str


@dataclass(frozen=True)
class RandomCopy:
    """Random tokens that the model has to say again: what teaches copying soonest.

    The fractions become token ids once the size of the vocabulary is known.
    """

    fractions: tuple[float, ...]


Document = Story | RandomCopy | Conversation


def short_documents(seed: int) -> Iterator[Document]:
    """Documents of mostly fewer than two hundred tokens."""
    rng = CorpusRandom(seed)
    while True:
        kind = rng.random()
        if kind < COPY_SHARE:
            yield RandomCopy(tuple(rng.random() for _ in range(rng.randint(2, 24))))
        elif kind < COPY_SHARE + STORY_SHARE:
            yield Story(tell_story(rng))
        else:
            yield short_conversation(rng)


def long_rows(seed: int, tokens: int) -> Iterator[list[Document]]:
    """Groups of documents that fill `tokens` tokens and are read as one text.

    A third each: one conversation of many turns, long texts with questions, many unrelated documents.
    """
    rng = CorpusRandom(seed)
    characters = tokens * CHARACTERS_PER_TOKEN
    unrelated = short_documents(seed + 1)
    while True:
        kind = rng.randrange(3)
        if kind == 0:
            yield [long_conversation(rng, characters)]
        elif kind == 1:
            yield [reading_conversation(rng, characters)]
        else:
            yield [next(unrelated) for _ in range(tokens // 20)]
