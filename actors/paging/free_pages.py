"""The pages of a table that no job references, in the order in which they are given to the next jobs."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from actors.paging.records import Page

_SPARE_ENTRIES = 64


class FreePages:
    """`count` free pages. The one that was assigned to a job longest ago goes first; of equals, the one that came back
    first. At first all pages are free, in the order of their indices."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self.count = len(pages)
        self._stamp = len(pages)
        self._oldest = [(page.serial, page.stamp, page.index) for page in pages]
        """A heap. An entry is stale when its page was taken by name since, which leaves it here: then the page is
        referenced, or has come back and has another stamp."""

    def __repr__(self) -> str:
        return f"<FreePages: {self.count} of {len(self._pages)}>"

    def pop_oldest(self) -> Page:
        """Take the page that goes first. There must be one."""
        while True:
            _, stamp, index = heappop(self._oldest)
            page = self._pages[index]
            if page.stamp == stamp and not page.references:
                self.count -= 1
                return page

    def take(self, page: Page) -> None:
        """Take a certain page, which is about to be referenced."""
        self.count -= 1

    def put_back(self, page: Page) -> None:
        """A page is free again; it keeps the place that its last assignment gives it."""
        self.count += 1
        self.requeue(page)

    def requeue(self, page: Page) -> None:
        """A free page is last among those that were assigned when it was."""
        self._stamp += 1
        page.stamp = self._stamp
        heappush(self._oldest, (page.serial, page.stamp, page.index))
        if len(self._oldest) > 2 * len(self._pages) + _SPARE_ENTRIES:
            self._oldest = [(p.serial, p.stamp, p.index) for p in self._pages if not p.references]
            heapify(self._oldest)

    def indices(self) -> set[int]:
        """Indices of all pages that could still be taken from here."""
        return {index for _, stamp, index in self._oldest if self._pages[index].stamp == stamp}
