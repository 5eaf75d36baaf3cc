"""A worker's page table by name, with the rules of ExLlamaV2's dynamic generator."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class NamedPages:
    """Pages are referenced by running jobs, resident without a reference (least recently used first), or blank."""

    def __init__(self, total_pages: int) -> None:
        self.total_pages = total_pages
        self.referenced: dict[bytes, int] = {}
        self.idle: OrderedDict[bytes, None] = OrderedDict()
        self.blank_pages = total_pages
        self.added: list[bytes] = []
        self.evicted: list[bytes] = []

    @property
    def free_pages(self) -> int:
        return self.blank_pages + len(self.idle)

    def pages_to_take(self, pages: Sequence[bytes], total: int) -> int:
        """Unreferenced pages that a job of `total` pages takes: those that a running job references cost nothing."""
        return total - sum(page in self.referenced for page in pages)

    def resident(self, pages: Sequence[bytes]) -> int:
        """How many of `pages`, from the first on, are there."""
        for count, page in enumerate(pages):
            if page not in self.referenced and page not in self.idle:
                return count
        return len(pages)

    def allocate(self, pages: Sequence[bytes], total: int) -> int:
        """Reserve a job's pages; returns how many of its prompt's pages were resident."""
        hits = self.resident(pages)
        kept = [page for page in pages if page in self.idle]
        for page in kept:  # first, so that none of them is evicted for another
            del self.idle[page]
            self.referenced[page] = 1
        taken = set(kept)
        for page in pages:
            if page in taken:
                continue
            if page in self.referenced:
                self.referenced[page] += 1
            else:
                self._take_page()
                self.referenced[page] = 1
                self.added.append(page)
        for _ in range(total - len(pages)):
            self._take_page()
        return hits

    def _take_page(self) -> None:
        if self.blank_pages:
            self.blank_pages -= 1
        else:
            self.evicted.append(self.idle.popitem(last=False)[0])

    def release(self, pages: Sequence[bytes], private_pages: int, completed: Sequence[bytes]) -> None:
        """A job ends: its prompt pages stay resident, and so do its `completed` ones, once full."""
        for page in pages:
            if self.referenced[page] > 1:
                self.referenced[page] -= 1
            else:
                del self.referenced[page]
                self.idle[page] = None
        self.blank_pages += private_pages
        for page in completed:
            if page not in self.referenced and page not in self.idle and self.blank_pages:
                self.blank_pages -= 1
                self.idle[page] = None
                self.added.append(page)

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """(added, evicted) since the last call, each page in its latest role."""
        here = [page for page in dict.fromkeys(self.added) if page in self.referenced or page in self.idle]
        gone = [page for page in dict.fromkeys(self.evicted) if page not in self.referenced and page not in self.idle]
        self.added, self.evicted = [], []
        return tuple(here), tuple(gone)
