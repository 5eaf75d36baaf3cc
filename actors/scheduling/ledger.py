"""The books of pages: what every worker's cache holds, references and has left, by page hash.

It mirrors the admission rule of ExLlamaV2's dynamic generator: a job takes `pages(prompt + max_new_tokens)` pages when
it starts and gives them back when it ends; a prompt page that a running job references already costs nothing. Pages
without a reference stay resident until the engine evicts them, so they count as free and still serve as prefix.

Referenced hashes are prefix-closed on a worker: whoever references a page references its parents. So counting the
leading ones counts them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class PageIndex:
    """Which workers hold a page, as bit masks: bit w stands for the worker with index w."""

    def __init__(self) -> None:
        self._masks: dict[bytes, int] = {}

    def add(self, page: bytes, bit: int) -> None:
        self._masks[page] = self._masks.get(page, 0) | bit

    def discard(self, page: bytes, bit: int) -> None:
        mask = self._masks.get(page, 0) & ~bit
        if mask:
            self._masks[page] = mask
        else:
            self._masks.pop(page, None)

    def mask(self, page: bytes) -> int:
        return self._masks.get(page, 0)

    def leading(self, pages: Sequence[bytes], bit: int) -> int:
        """How many of `pages`, from the first on, the worker of `bit` holds without a gap."""
        masks = self._masks
        for count, page in enumerate(pages):
            if not masks.get(page, 0) & bit:
                return count
        return len(pages)

    def depths(self, pages: Sequence[bytes]) -> list[tuple[int, int]]:
        """For all workers at once: pairs (depth, mask) of the workers that hold exactly the first `depth` pages
        without a gap. Workers that hold not even the first are left out."""
        masks = self._masks
        holders = masks.get(pages[0], 0) if pages else 0
        levels: list[tuple[int, int]] = []
        for depth in range(1, len(pages)):
            if not holders:
                return levels
            still = holders & masks.get(pages[depth], 0)
            if still != holders:
                levels.append((depth, holders & ~still))
                holders = still
        if holders:
            levels.append((len(pages), holders))
        return levels

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"<PageIndex of {len(self)} pages>"


@dataclass(frozen=True, slots=True)
class Booking:
    """Pages that one attempt holds: its prompt's shareable pages by name, and `private_pages` others."""

    shared: tuple[bytes, ...]
    private_pages: int


class Ledger:
    """The pages of one worker. `known` and `referenced` are the pool's indexes, in which this ledger keeps its bit.

    `known` has what is resident or will be, because an attempt that references it was started there.
    """

    def __init__(self, total_pages: int, bit: int, known: PageIndex, referenced: PageIndex) -> None:
        self.total_pages = total_pages
        self.used_pages = 0
        self.resident: set[bytes] = set()
        self._references: dict[bytes, int] = {}
        self._bit = bit
        self._known = known
        self._referenced = referenced

    def __repr__(self) -> str:
        return (
            f"<Ledger: {self.free_pages}/{self.total_pages} pages free, {self.referenced_pages} shared by name, "
            f"{len(self.resident)} resident>"
        )

    @property
    def free_pages(self) -> int:
        """Pages that no attempt references: blank ones and resident ones."""
        return self.total_pages - self.used_pages

    @property
    def referenced_pages(self) -> int:
        """Named pages that at least one attempt references."""
        return len(self._references)

    @property
    def idle_resident_pages(self) -> int:
        """Pages that are resident and that nobody references."""
        return len(self.resident - self._references.keys())

    def pages_to_take(self, pages: int, hashes: Sequence[bytes]) -> int:
        """What an attempt of `pages` pages in all would take from `free_pages`."""
        return pages - self._referenced.leading(hashes, self._bit)

    def book(self, pages: int, hashes: tuple[bytes, ...]) -> tuple[Booking, int]:
        """Take an attempt's pages; returns its booking and how many pages it took."""
        taken = pages - len(hashes)
        booking = Booking(hashes, taken)
        for page in hashes:
            count = self._references.get(page, 0)
            self._references[page] = count + 1
            if not count:
                taken += 1
                self._referenced.add(page, self._bit)
                self._known.add(page, self._bit)
        self.used_pages += taken
        return booking, taken

    def release(self, booking: Booking) -> None:
        """Give an attempt's pages back. Those that never became resident are forgotten."""
        # A page by name that nobody references any more is either resident: free, and still of use as a prefix; or it
        # never was computed: nobody must count on it. While somebody references it, neither is asked.
        self.used_pages -= booking.private_pages
        for page in booking.shared:
            count = self._references[page] - 1
            if count:
                self._references[page] = count
                continue
            del self._references[page]
            self.used_pages -= 1
            self._referenced.discard(page, self._bit)
            if page not in self.resident:
                self._known.discard(page, self._bit)

    def add_resident(self, pages: Iterable[bytes]) -> None:
        for page in pages:
            self.resident.add(page)
            self._known.add(page, self._bit)

    def remove_resident(self, pages: Iterable[bytes]) -> None:
        for page in pages:
            self.resident.discard(page)
            if page not in self._references:
                self._known.discard(page, self._bit)

    def replace_resident(self, pages: Iterable[bytes]) -> None:
        """The whole truth after a gap in the reports."""
        truth = set(pages)
        self.remove_resident(self.resident - truth)
        self.add_resident(truth - self.resident)

    def close(self) -> None:
        """Take this worker's bit out of the indexes; the ledger must not be used any more."""
        for page in self._references:
            self._referenced.discard(page, self._bit)
        for page in self.resident | self._references.keys():
            self._known.discard(page, self._bit)

    def validate(self, bookings: Iterable[Booking]) -> None:
        """Check the books against the bookings that should be in them.

        :raises AssertionError: pages were lost or invented.
        """
        references: dict[bytes, int] = {}
        private_pages = 0
        for booking in bookings:
            private_pages += booking.private_pages
            for page in booking.shared:
                references[page] = references.get(page, 0) + 1
        assert references == self._references, "reference counts differ from the bookings"
        assert self.used_pages == private_pages + len(references), "used pages differ from the bookings"
        for page in self._references:
            assert self._referenced.mask(page) & self._bit, "a referenced page is not in the index"
            assert self._known.mask(page) & self._bit, "a referenced page is not known"
        for page in self.resident:
            assert self._known.mask(page) & self._bit, "a resident page is not known"
