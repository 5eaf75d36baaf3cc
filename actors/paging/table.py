"""The page rules of ExLlamaV2's dynamic generator, without a model: who holds which page, what is resident, what goes
next. For engines that keep a cache of their own and for everybody who predicts one.

Source: `CachePage`, `iterate_start_jobs`, `prefill`, `receive_sample` and `allocate_pages` in
exllamav2/generator/dynamic.py, 0.3.2. Three deviations, where that code loses track of what a page holds: a page whose
former content is resident elsewhere by the time it could get it back becomes blank, the page behind a prompt that was
wholly resident knows its parent, and an output page whose name is still being computed by another job stays nameless
instead of failing an assertion.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.paging.free_pages import FreePages
from actors.paging.hashes import PAGE_TOKENS
from actors.paging.records import MIN_PARTIAL_TOKENS, Allocation, Beginnings, CopiedRows, Page, PrefillStep
from actors.paging.resident import ResidentPages

__all__ = ["Allocation", "CopiedRows", "Page", "PageTable", "PrefillStep"]


class PageTable:
    """`total_pages` pages, at first all blank. All calls take constant time per page that they touch.

    `free_pages` counts pages that no job references; they may be resident all the same.
    """

    def __init__(self, total_pages: int) -> None:
        self.total_pages = total_pages
        self._resident = ResidentPages()
        self.clear()

    def __repr__(self) -> str:
        return (
            f"<PageTable of {self.total_pages} pages: {self.free_pages} free, {len(self._named)} named, "
            f"{len(self._resident)} resident>"
        )

    @property
    def free_pages(self) -> int:
        return self._free.count

    def clear(self) -> None:
        """Forget everything. Allocations made before must not be used again, nor released."""
        self._pages = [Page(index, index, index) for index in range(self.total_pages)]
        self._free = FreePages(self._pages)
        self._serial = self.total_pages
        self._named: dict[bytes, Page] = {}
        self._resident.clear()
        self._beginnings = Beginnings()

    def pages_required(self, prompt_hashes: Sequence[bytes], total_pages: int) -> int:
        """Free pages that a job of `total_pages` pages takes: pages that running jobs reference cost nothing.

        `prompt_hashes` are the prompt's `page_hashes`. The job fits when this is at most `free_pages`.
        """
        named = self._named
        shared = 0
        for name in prompt_hashes:
            page = named.get(name)
            if page is not None and page.references:
                shared += 1
        return total_pages - shared

    def allocate(self, prompt_hashes: Sequence[bytes], total_pages: int) -> Allocation:
        """Reserve a job's pages: named ones for `prompt_hashes`, nameless ones for the rest.

        A page that has the name already is shared; else the page that was assigned longest ago and that nobody
        references loses its content, which may be a later page of the same prompt. `position` is behind the leading
        valid pages.
        :raises ValueError: the job does not fit.
        """
        # A page of the prompt is found (1) referenced: shared, and costs nothing; (2) free under its name: taken out of
        # the free pages with its content; (3) not at all: the oldest free page gets the name and is to be computed.
        # A page behind the prompt is always the oldest free page, and remembers what it held until it is written to.
        # (3) may hit a page of case (2) that comes later in the same prompt: that one then is case (3) itself. So the
        # count of free pages that are needed is right although the pages change under it.
        required = self.pages_required(prompt_hashes, total_pages)
        if required > self.free_pages or total_pages < len(prompt_hashes):
            raise ValueError(f"A job of {total_pages} pages takes {required}, and {self.free_pages} are free.")
        pages = [self._take_named(name) for name in prompt_hashes]
        pages += [self._take_nameless() for _ in range(total_pages - len(prompt_hashes))]
        allocation = Allocation(pages, list(prompt_hashes))
        self.skip_valid(allocation)
        return allocation

    def skip_valid(self, allocation: Allocation, limit_tokens: int | None = None) -> int:
        """Advance over pages of the prompt that are valid by now, at most to `limit_tokens`; returns the tokens."""
        start = allocation.position
        if start % PAGE_TOKENS:
            return 0
        place, last = start // PAGE_TOKENS, len(allocation.hashes)
        if limit_tokens is not None:
            last = min(last, -(-limit_tokens // PAGE_TOKENS))
        pages = allocation.pages
        while place < last and pages[place].valid_tokens == PAGE_TOKENS:
            place += 1
        skipped = place * PAGE_TOKENS - start
        allocation.position += skipped
        allocation.cached_tokens += skipped
        return skipped

    def prefill(
        self, allocation: Allocation, prompt_tokens: int, chunk_tokens: int, token_ids: Sequence[int] | None = None
    ) -> PrefillStep:
        """One round of a job's prefill as the generator does it, computing included; the last ends at `position`
        `prompt_tokens - 1`. With `token_ids`, the beginning of a page may be copied from another.

        A round ends at a page's edge and before a page that is valid. Like the generator, a round that computes up to a
        page's edge invalidates the page behind it, so the next round computes that again.
        """
        until = (allocation.position + chunk_tokens) // PAGE_TOKENS * PAGE_TOKENS
        end = min(until, prompt_tokens - 1)
        cached = self.skip_valid(allocation, end)
        start = allocation.position
        first = start // PAGE_TOKENS
        for place in range(first, min(-(-end // PAGE_TOKENS), len(allocation.hashes))):
            if allocation.pages[place].valid_tokens == PAGE_TOKENS:
                end = place * PAGE_TOKENS
                break
        if end <= start:
            return PrefillStep(cached, start, start)
        copied = None
        # Four cases. The round begins inside a page, or nobody told the tokens: nothing is copied. No other page
        # agrees in two tokens: the same. One agrees in part: its rows are copied, the rest of the round is computed.
        # One agrees in all that is wanted of this page, up to 256 tokens: the copy ends at the page's edge, or at `end`
        # itself, and then nothing is left to compute.
        if token_ids is not None and start % PAGE_TOKENS == 0:
            target = allocation.pages[first]
            wanted = token_ids[start : min(start + PAGE_TOKENS, end)]
            match = self.best_partial(allocation.parent_hash(first), wanted, target)
            if match is not None:
                source, tokens = match
                copied = CopiedRows(source, target, tokens)
                allocation.cached_tokens += tokens
                cached, start = cached + tokens, start + tokens
        self.fill(allocation, end, token_ids)
        # The generator notes how full each page is that a round reached, and the one behind: empty, whatever it held.
        following = end // PAGE_TOKENS
        if start < end and end % PAGE_TOKENS == 0 and following < len(allocation.pages):
            self._set_valid(allocation.pages[following], 0, ())
        return PrefillStep(cached, start, end, copied)

    def fill(self, allocation: Allocation, upto_tokens: int, token_ids: Sequence[int] | None = None) -> None:
        """Note that keys and values of the job's first `upto_tokens` tokens are written; valid pages stay as they are.

        `token_ids` are the job's tokens from the first on; without them its pages are no source of partial matches.
        """
        pages, hashes = allocation.pages, allocation.hashes
        first = allocation.position // PAGE_TOKENS
        for place in range(first, min(upto_tokens // PAGE_TOKENS + 1, len(pages))):
            page = pages[place]
            start = place * PAGE_TOKENS
            page.former = None
            valid = min(upto_tokens - start, PAGE_TOKENS)
            parent = (hashes[place - 1] if place <= len(hashes) else page.parent) if place else None
            self._set_parent(page, parent)
            if page.valid_tokens < valid:
                self._set_valid(page, valid, () if token_ids is None else tuple(token_ids[start : start + valid]))
        allocation.position = max(allocation.position, upto_tokens)

    def complete_page(self, allocation: Allocation, name: bytes) -> Page:
        """Name the job's next nameless page, which must be full; returns the page that the job has in its place now.

        That is another one if a running job references a resident page of that name; a page of that name that nobody
        references is cleared.
        :raises ValueError: the page is not full.
        """
        place = len(allocation.hashes)
        if place >= len(allocation.pages) or allocation.pages[place].valid_tokens < PAGE_TOKENS:
            raise ValueError(f"Page {place} of the job is not full.")
        page, other = allocation.pages[place], self._named.get(name)
        # Who has the name already?
        # - Nobody: the job's page gets it.
        # - A free page: it is blanked, since it holds the same or nothing, and the job's page gets the name.
        # - A page of a running job, full: from here on both jobs use that one. The page that was given up goes back to
        #   the free ones; the other becomes as young as it was.
        # - A page of a running job that is still computed: the job keeps its own page, which stays nameless, since a
        #   name belongs to one page. Its text is known under that name all the same, so the chain of names goes on.
        if other is None or not other.references:
            if other is not None:
                self._blank(other)
                self._free.requeue(other)
            self._name(page, name)
        elif other.valid_tokens == PAGE_TOKENS:
            self._unreference(page)
            other.references += 1
            other.serial = max(other.serial, page.serial)
            allocation.pages[place] = other
        allocation.hashes.append(name)
        if place + 1 < len(allocation.pages):
            following = allocation.pages[place + 1]
            following.former = None
            self._set_parent(following, name)
        return allocation.pages[place]

    def best_partial(
        self, parent: bytes | None, token_ids: Sequence[int], excluded: Page | None = None
    ) -> tuple[Page, int] | None:
        """The page behind `parent` that agrees longest with `token_ids`, and in how many tokens (at least 2)."""
        return self._beginnings.best(parent, token_ids, excluded)

    def release(self, allocation: Allocation) -> None:
        """A job ends: its pages stay as they are until they are wanted. Releasing twice does nothing."""
        for page in allocation.pages:
            self._unreference(page)
        allocation.pages = []

    def resident(self) -> frozenset[bytes]:
        """Names of the full pages whose keys and values are valid, referenced or not."""
        return self._resident.names()

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Names that became resident and names that were lost since the last call (at first: since the table was made).

        The difference alone is told: a page that came and went in between is in neither. `clear` loses all pages.
        """
        return self._resident.take_changes()

    def validate(self, allocations: Sequence[Allocation]) -> None:
        """Check the table against all live allocations.

        :raises AssertionError: it is inconsistent.
        """
        references = [0] * self.total_pages
        for allocation in allocations:
            for page in allocation.pages:
                references[page.index] += 1
        assert references == [page.references for page in self._pages], "reference counts differ from the jobs'"
        assert self.free_pages == references.count(0), "free pages are miscounted"
        named = {page.hash: page for page in self._pages if page.hash is not None}
        assert named == self._named, "names and pages differ"
        full = {name for name, page in named.items() if page.valid_tokens == PAGE_TOKENS}
        self._resident.validate(full)
        free = {page.index for page in self._pages if not page.references}
        assert free <= self._free.indices(), "a free page can never be taken"
        known = {page.index for page in self._pages if len(page.tokens) >= MIN_PARTIAL_TOKENS}
        assert known == self._beginnings.indices(), "a page's beginning was lost"

    def _take_named(self, name: bytes) -> Page:
        self._serial += 1
        page = self._named.get(name)
        if page is None:
            page = self._free.pop_oldest()
            self._blank(page)
            self._name(page, name)
        elif not page.references:
            self._free.take(page)
        page.references += 1
        page.serial = self._serial
        return page

    def _take_nameless(self) -> Page:
        self._serial += 1
        page = self._free.pop_oldest()
        former = (page.hash, page.parent, page.valid_tokens, page.tokens, page.serial)
        self._blank(page)
        page.former = former
        page.references = 1
        page.serial = self._serial
        return page

    def _unreference(self, page: Page) -> None:
        page.references -= 1
        if page.references:
            return
        if page.former is not None:
            self._restore(page, *page.former)
        self._free.put_back(page)

    def _restore(
        self, page: Page, name: bytes | None, parent: bytes | None, valid: int, tokens: tuple[int, ...], serial: int
    ) -> None:
        """Give a nameless page that its job never wrote to the content back that it had before.

        Its name may have come up on another page meanwhile: then that one is the younger, and this one stays blank.
        """
        page.former = None
        page.serial = serial
        if name is not None and name in self._named:
            return
        page.parent = parent
        self._set_valid(page, valid, tokens)
        if name is not None:
            self._name(page, name)

    def _blank(self, page: Page) -> None:
        self._set_valid(page, 0, ())
        page.parent = page.former = None
        if page.hash is not None:
            del self._named[page.hash]
            page.hash = None

    def _name(self, page: Page, name: bytes) -> None:
        page.hash = name
        self._named[name] = page
        if page.valid_tokens == PAGE_TOKENS:
            self._resident.add(name)

    def _set_parent(self, page: Page, parent: bytes | None) -> None:
        if page.parent != parent:
            self._beginnings.remove(page)
            page.parent = parent
            self._beginnings.add(page)

    def _set_valid(self, page: Page, valid_tokens: int, tokens: tuple[int, ...]) -> None:
        was_full = page.valid_tokens == PAGE_TOKENS
        self._beginnings.remove(page)
        page.valid_tokens, page.tokens = valid_tokens, tokens
        self._beginnings.add(page)
        if page.hash is not None and was_full != (valid_tokens == PAGE_TOKENS):
            (self._resident.remove if was_full else self._resident.add)(page.hash)
