"""Jobs over a page table and a cache of rows that are really written, copied and read: content that went to the wrong
place, or to none, shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.paging.hashes import PAGE_TOKENS, next_hash, page_hashes, pages_needed
from actors.paging.table import Allocation, PageTable

CHUNK = 2 * PAGE_TOKENS


@dataclass(eq=False)
class Job:
    """A job, and what the rows that it reads must hold: each a digest of all tokens up to it."""

    token_ids: list[int]
    prompt_tokens: int
    total_tokens: int
    allocation: Allocation
    rows: list[int] = field(default_factory=list)

    def row(self, position: int) -> int:
        while len(self.rows) <= position:
            self.rows.append(hash((self.rows[-1] if self.rows else 0, self.token_ids[len(self.rows)])))
        return self.rows[position]


class JobsOverRows:
    """What an engine does with a table, step by step."""

    def __init__(self, total_pages: int) -> None:
        self.table = PageTable(total_pages)
        self.cache = [[0] * PAGE_TOKENS for _ in range(total_pages)]
        self.jobs: list[Job] = []
        self.told: set[bytes] = set()
        """The resident pages, as changes told them."""

    def start(self, pages: Sequence[int], tail: int, last: int, new_tokens: int) -> Job | None:
        """Take a job up: pages of one token each, and `tail` tokens `last` behind. None: it does not fit."""
        token_ids = [page for page in pages for _ in range(PAGE_TOKENS)] + [last] * tail
        names, total = page_hashes(token_ids), pages_needed(len(token_ids) + new_tokens)
        before = self.table.free_pages
        required = self.table.pages_required(names, total)
        resident = self.table.resident()
        if required > before:
            with pytest.raises(ValueError, match="are free"):
                self.table.allocate(names, total)
            return None
        allocation = self.table.allocate(names, total)
        assert self.table.free_pages == before - required
        leading = next((place for place, name in enumerate(names) if name not in resident), len(names))
        assert allocation.position <= leading * PAGE_TOKENS
        assert (allocation.position == 0) == (leading == 0)
        job = Job(token_ids, len(token_ids), len(token_ids) + new_tokens, allocation)
        self.jobs.append(job)
        return job

    def prefill(self, job: Job) -> None:
        """One round: copy what the table says, then write what it says."""
        position, cached = job.allocation.position, job.allocation.cached_tokens
        step = self.table.prefill(job.allocation, job.prompt_tokens, CHUNK, job.token_ids)
        assert step.cached_tokens == job.allocation.cached_tokens - cached
        assert position + step.cached_tokens == step.start <= step.end == job.allocation.position
        copied = step.copied
        if copied is not None:
            assert 2 <= copied.tokens <= step.cached_tokens
            assert copied.target is job.allocation.pages[(step.start - copied.tokens) // PAGE_TOKENS]
            assert (step.start - copied.tokens) % PAGE_TOKENS == 0
            self.cache[copied.target.index][: copied.tokens] = self.cache[copied.source.index][: copied.tokens]
        self._write(job, step.start, step.end)

    def decode(self, job: Job, tokens: int, token: int) -> None:
        """Generate `token` so many times, within the job's length."""
        for _ in range(min(tokens, job.total_tokens - len(job.token_ids))):
            position = job.allocation.position
            self._write(job, position, position + 1)
            self.table.fill(job.allocation, position + 1, job.token_ids)
            job.token_ids.append(token)
            if (position + 1) % PAGE_TOKENS == 0:
                place = position // PAGE_TOKENS
                ids = job.token_ids[place * PAGE_TOKENS : position + 1]
                self.table.complete_page(job.allocation, next_hash(job.allocation.parent_hash(place), ids))

    def _write(self, job: Job, start: int, end: int) -> None:
        for position in range(start, end):
            page = job.allocation.pages[position // PAGE_TOKENS]
            self.cache[page.index][position % PAGE_TOKENS] = job.row(position)

    def end(self, job: Job) -> None:
        self.jobs.remove(job)
        self.table.release(job.allocation)

    def read_changes(self) -> None:
        added, evicted = self.table.take_changes()
        assert not self.told & set(added)
        assert self.told >= set(evicted)
        self.told = (self.told | set(added)) - set(evicted)
        assert self.told == self.table.resident()

    def check(self) -> None:
        """The books are right, every job reads its own content, and what is computed of a prompt is resident."""
        self.table.validate([job.allocation for job in self.jobs])
        for job in self.jobs:
            for position in range(job.allocation.position):
                page = job.allocation.pages[position // PAGE_TOKENS]
                assert self.cache[page.index][position % PAGE_TOKENS] == job.row(position)
            full = job.allocation.hashes[: job.allocation.position // PAGE_TOKENS]
            promised = {name for name in full if name not in self.table.resident()}
            assert all(any(name in other.allocation.hashes for other in self.jobs) for name in promised)


class RandomJobs(RuleBasedStateMachine):
    """Jobs come, prefill, generate and go in any order."""

    @initialize(total_pages=st.integers(3, 12))
    def begin(self, total_pages: int) -> None:
        self.work = JobsOverRows(total_pages)

    @rule(
        pages=st.lists(st.sampled_from([1, 2]), max_size=4),
        tail=st.sampled_from([1, 2, 3, 100, 255]),
        last=st.sampled_from([1, 2]),
        new_tokens=st.sampled_from([1, 5, 300, 600]),
    )
    def start(self, pages: list[int], tail: int, last: int, new_tokens: int) -> None:
        self.work.start(pages, tail, last, new_tokens)

    @precondition(lambda self: self.work.jobs)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.work.jobs))
        if job.allocation.position < job.prompt_tokens - 1:
            self.work.prefill(job)
        else:
            self.work.decode(job, data.draw(st.integers(1, 300)), data.draw(st.sampled_from([1, 2])))

    @precondition(lambda self: self.work.jobs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.work.end(data.draw(st.sampled_from(self.work.jobs)))

    @rule()
    def read_changes(self) -> None:
        self.work.read_changes()

    @invariant()
    def all_is_well(self) -> None:
        self.work.check()

    def teardown(self) -> None:
        for job in list(self.work.jobs):
            self.work.end(job)
        self.work.read_changes()
        self.work.table.validate([])
        assert self.work.table.free_pages == self.work.table.total_pages
