"""What a page table (`actors.paging.table`) is made of: pages, the pages of a job, and how pages begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_PARTIAL_TOKENS = 2
"""Shorter common beginnings of two pages are not worth a copy."""


@dataclass(slots=True, eq=False)
class Page:
    """One physical page, in one of these states, referenced by jobs or free in each:

        blank      no name and no valid tokens; every page at first
        nameless   valid tokens and no name: output in the making, which gets its name when the page is full
        named      a name and less than 256 valid tokens: a page of a prompt that is still to be computed
        resident   a name and 256 valid tokens: what later prompts find and share

    `hash` is its name (`actors.paging.hashes`), given before it is full to a prompt's shareable pages; it is resident
    when `valid_tokens` is 256 too. `parent` is the name of the page before it, None for a first page. `tokens` are the
    ids of its valid tokens, or empty where the owner told none. `serial` grows with every assignment to a job, `stamp`
    with every return.
    """

    index: int
    serial: int
    stamp: int
    hash: bytes | None = None
    parent: bytes | None = None
    references: int = 0
    valid_tokens: int = 0
    tokens: tuple[int, ...] = ()
    former: tuple[bytes | None, bytes | None, int, tuple[int, ...], int] | None = None
    """(hash, parent, valid tokens, tokens, serial) that it gets back if its job ends without writing to it."""


@dataclass(slots=True, eq=False)
class Allocation:
    """The pages of one job. The keys and values of its first `position` tokens are valid; `cached_tokens` of them were
    found so. `hashes` names its full pages: those of the prompt, then those that were completed."""

    pages: list[Page]
    hashes: list[bytes]
    position: int = 0
    cached_tokens: int = 0

    def parent_hash(self, place: int) -> bytes | None:
        """The name of the page before the job's page `place`."""
        return self.hashes[place - 1] if place else None


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """The keys and values of the first `tokens` tokens of `source`, 2 to 256 of them, were copied to the beginning of
    `target`, a page of the job."""

    source: Page
    target: Page
    tokens: int


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """What one round of prefill did, in this order: found, copied, computed.

    `cached_tokens` prompt tokens are there without being computed: those of whole valid pages, and then those of
    `copied`, if the beginning of one more page was copied. After them, the tokens from position `start` up to `end`
    were computed; none where the two are equal, which a copy of all that was wanted leads to as well.
    """

    cached_tokens: int
    start: int
    end: int
    copied: CopiedRows | None = None


class Beginnings:
    """Pages by their parent and first tokens, to find the one that agrees longest with a text."""

    def __init__(self) -> None:
        self._pages: dict[tuple[bytes | None, int, int], dict[int, Page]] = {}

    def add(self, page: Page) -> None:
        if len(page.tokens) >= MIN_PARTIAL_TOKENS:
            self._pages.setdefault((page.parent, page.tokens[0], page.tokens[1]), {})[page.index] = page

    def remove(self, page: Page) -> None:
        """To be called before anything of the page changes."""
        if len(page.tokens) >= MIN_PARTIAL_TOKENS:
            key = (page.parent, page.tokens[0], page.tokens[1])
            del self._pages[key][page.index]
            if not self._pages[key]:
                del self._pages[key]

    def best(self, parent: bytes | None, token_ids: Sequence[int], excluded: Page | None) -> tuple[Page, int] | None:
        """The page that agrees longest, and in how many tokens; of equals, the one with the lowest index."""
        if len(token_ids) < MIN_PARTIAL_TOKENS:
            return None
        group = self._pages.get((parent, token_ids[0], token_ids[1]), {})
        found = (
            (_common(page.tokens, token_ids), -page.index, page) for page in group.values() if page is not excluded
        )
        tokens, _, page = max(found, default=(0, 0, None))
        return None if page is None else (page, tokens)

    def indices(self) -> set[int]:
        return {index for group in self._pages.values() for index in group}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the first on."""
    for count, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return count
    return min(len(one), len(other))
