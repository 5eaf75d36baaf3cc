"""The books of pages, alone and beside the page table that engines use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.paging.hashes import PAGE_TOKENS, next_hash, page_hashes, pages_needed
from actors.paging.table import Allocation, PageTable
from actors.scheduling.ledger import Booking, Ledger, PageIndex
from tests.properties import examples
from tests.scheduling.pool import pages


class TwoWorkers:
    """Two ledgers round the same indexes."""

    def __init__(self, total_pages: int = 10) -> None:
        self.known, self.referenced = PageIndex(), PageIndex()
        self.first = Ledger(total_pages, 1, self.known, self.referenced)
        self.second = Ledger(total_pages, 2, self.known, self.referenced)


def test_pages_are_taken_and_given_back() -> None:
    ledger = TwoWorkers().first
    booking, taken = ledger.book(4, pages("p", "q"))
    assert (taken, ledger.used_pages, ledger.free_pages, ledger.referenced_pages) == (4, 4, 6, 2)
    ledger.validate([booking])
    ledger.release(booking)
    assert (ledger.used_pages, ledger.free_pages, ledger.referenced_pages) == (0, 10, 0)
    ledger.validate([])


def test_shared_pages_are_taken_once_and_given_back_with_the_last() -> None:
    ledger = TwoWorkers().first
    one, _ = ledger.book(4, pages("p", "q"))
    assert ledger.pages_to_take(5, pages("p", "q", "s")) == 3
    two, taken = ledger.book(5, pages("p", "q", "s"))
    assert (taken, ledger.used_pages) == (3, 7)
    ledger.validate([one, two])
    ledger.release(one)
    assert ledger.used_pages == 5
    ledger.release(two)
    assert ledger.used_pages == 0


def test_resident_pages_are_free() -> None:
    ledger = TwoWorkers().first
    ledger.add_resident(pages("p", "q"))
    assert (ledger.free_pages, ledger.idle_resident_pages) == (10, 2)
    assert ledger.pages_to_take(3, pages("p", "q")) == 3
    booking, _ = ledger.book(3, pages("p"))
    assert ledger.idle_resident_pages == 1
    ledger.release(booking)
    assert ledger.idle_resident_pages == 2


def test_a_page_that_is_referenced_will_be_resident() -> None:
    two = TwoWorkers()
    booking, _ = two.first.book(3, pages("p"))
    assert two.known.leading(pages("p"), 1) == 1
    two.first.release(booking)  # it never became resident
    assert two.known.leading(pages("p"), 1) == 0
    booking, _ = two.first.book(3, pages("p"))
    two.first.add_resident(pages("p"))
    two.first.release(booking)
    assert two.known.leading(pages("p"), 1) == 1


def test_an_evicted_page_that_is_wanted_again_is_known_still() -> None:
    two = TwoWorkers()
    two.first.add_resident(pages("p"))
    booking, _ = two.first.book(3, pages("p"))
    two.first.remove_resident(pages("p"))
    assert two.known.leading(pages("p"), 1) == 1
    two.first.release(booking)
    assert len(two.known) == 0


def test_workers_do_not_mix() -> None:
    two = TwoWorkers()
    two.first.book(3, pages("p", "q"))
    two.second.add_resident(pages("p"))
    assert two.second.pages_to_take(3, pages("p", "q")) == 3
    assert two.known.depths(pages("p", "q")) == [(1, 2), (2, 1)]
    assert two.known.mask(b"p") == 3
    assert two.referenced.depths(pages("p", "q")) == [(2, 1)]


def test_depths_are_counted_without_gaps() -> None:
    index = PageIndex()
    for bit, names in ((1, "pqs"), (2, "ps"), (4, "qs"), (8, "p")):
        for page in pages(*names):
            index.add(page, bit)
    assert index.depths(pages("p", "q", "s")) == [(1, 2 | 8), (3, 1)]
    assert index.depths(pages("p", "x", "s")) == [(1, 1 | 2 | 8)]
    assert index.depths(pages("p", "x", "q", "s")) == [(1, 1 | 2 | 8)]
    assert index.depths(pages("x", "p")) == index.depths(()) == []
    assert [index.leading(pages("p", "q", "s"), bit) for bit in (1, 2, 4, 8)] == [3, 1, 0, 1]
    index.discard(b"p", 1)
    index.discard(b"never", 1)
    assert index.leading(pages("p", "q"), 1) == 0


def test_the_whole_truth_replaces_what_was_resident() -> None:
    two = TwoWorkers()
    two.first.add_resident(pages("p", "q"))
    booking, _ = two.first.book(2, pages("p"))
    two.first.replace_resident(pages("q", "s"))
    assert two.first.resident == set(pages("q", "s"))
    assert [two.known.mask(page) for page in pages("p", "q", "s")] == [1, 1, 1]
    two.first.validate([booking])


def test_a_closed_ledger_leaves_nothing_behind() -> None:
    two = TwoWorkers()
    two.first.add_resident(pages("p", "q"))
    two.first.book(3, pages("q", "s"))
    two.second.add_resident(pages("q"))
    two.first.close()
    assert [two.known.mask(page) for page in pages("p", "q", "s")] == [0, 2, 0]
    assert len(two.referenced) == 0


def test_books_that_differ_from_their_bookings_are_found() -> None:
    ledger = TwoWorkers().first
    booking, _ = ledger.book(3, pages("p"))
    for wrong in ([], [booking, booking], [Booking(pages("p"), 3)], [Booking(pages("q"), 2)]):
        with pytest.raises(AssertionError, match="differ"):
            ledger.validate(wrong)


def prompt(*names: int, tail: int) -> tuple[int, ...]:
    """One page of a single token per name, and `tail` tokens behind."""
    return tuple(name for name in names for _ in range(PAGE_TOKENS)) + (9,) * tail


@dataclass
class Job:
    allocation: Allocation
    booking: Booking
    token_ids: list[int]
    total_tokens: int
    prompt_tokens: int


class LedgerBesidePageTable(RuleBasedStateMachine):
    """The ledger hears what a dispatcher hears, and foretells what the engine's page table then does: whether a job
    fits, how many pages it takes, and, while reports are up to date, how much of its prompt is there."""

    exact = True

    @initialize(total_pages=st.integers(3, 14))
    def begin(self, total_pages: int) -> None:
        self.table = PageTable(total_pages)
        self.index = PageIndex()
        self.ledger = Ledger(total_pages, 1, self.index, PageIndex())
        self.jobs: list[Job] = []
        self.told: frozenset[bytes] = frozenset()

    @rule(
        names=st.lists(st.sampled_from([1, 2, 3]), max_size=5),
        tail=st.sampled_from([1, 2, 100, 255]),
        new_tokens=st.sampled_from([1, 5, 300, 600]),
        told=st.booleans(),
    )
    def start(self, names: list[int], tail: int, new_tokens: int, told: bool) -> None:
        if told:
            self.report()
        token_ids = prompt(*names, tail=tail)
        hashes, total = page_hashes(token_ids), pages_needed(len(token_ids) + new_tokens)
        needed = self.ledger.pages_to_take(total, hashes)
        required = self.table.pages_required(hashes, total)
        fits, may_start = required <= self.table.free_pages, needed <= self.ledger.free_pages
        assert fits or not may_start
        if self.exact:
            assert (needed, may_start) == (required, fits)
        if not may_start:
            return
        foretold = self.index.leading(hashes, 1)
        resident = self.table.resident()
        allocation = self.table.allocate(hashes, total)
        booking, taken = self.ledger.book(total, hashes)
        assert taken == needed
        if told and all(name in resident for name in hashes[:foretold]):
            leading = next((place for place, name in enumerate(hashes) if name not in resident), len(hashes))
            assert foretold == leading
        self.jobs.append(Job(allocation, booking, list(token_ids), len(token_ids) + new_tokens, len(token_ids)))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job.allocation.position < job.prompt_tokens - 1:
            self.table.prefill(job.allocation, job.prompt_tokens, 2 * PAGE_TOKENS)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        self.table.release(job.allocation)
        self.ledger.release(job.booking)

    @rule()
    def report(self) -> None:
        now = self.table.resident()
        self.ledger.add_resident(now - self.told)
        self.ledger.remove_resident(self.told - now)
        self.told = now

    @rule()
    def resync(self) -> None:
        self.told = self.table.resident()
        self.ledger.replace_resident(self.told)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        self.ledger.validate([job.booking for job in self.jobs])
        assert self.ledger.free_pages <= self.table.free_pages
        assert self.ledger.free_pages == self.table.free_pages or not self.exact
        assert self.ledger.resident == self.told

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        for job in self.jobs:
            self.ledger.release(job.booking)
        assert self.ledger.free_pages == self.table.total_pages
        self.ledger.close()
        assert len(self.index) == 0


class LedgerBesideGeneration(LedgerBesidePageTable):
    """Pages that are full of output get a name too, and jobs that wrote the same come to share them. The ledger does
    not hear whose they are, so it may count a page too many, and never one too few."""

    exact = False

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), tokens=st.integers(1, 600), token=st.sampled_from([1, 2, 9]))
    def generate(self, data: st.DataObject, tokens: int, token: int) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        allocation = job.allocation
        while allocation.position < job.prompt_tokens - 1:
            self.table.prefill(allocation, job.prompt_tokens, 2 * PAGE_TOKENS)
        for _ in range(min(tokens, job.total_tokens - len(job.token_ids))):
            position = allocation.position
            self.table.fill(allocation, position + 1)
            job.token_ids.append(token)
            if (position + 1) % PAGE_TOKENS == 0:
                place = position // PAGE_TOKENS
                ids = job.token_ids[place * PAGE_TOKENS : position + 1]
                self.table.complete_page(allocation, next_hash(allocation.parent_hash(place), ids))


LedgerBesideGeneration.TestCase.settings = settings(examples(60), stateful_step_count=40)
TestLedgerBesideGeneration = LedgerBesideGeneration.TestCase
LedgerBesidePageTable.TestCase.settings = settings(examples(100), stateful_step_count=40)
TestLedgerBesidePageTable = LedgerBesidePageTable.TestCase
