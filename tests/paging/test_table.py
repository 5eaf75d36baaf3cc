"""The page table: what it reserves, shares, evicts and gives back, and that nobody ever reads another's content."""

from __future__ import annotations

import pytest

from actors.paging.hashes import PAGE_TOKENS, next_hash, page_hashes, pages_needed
from actors.paging.table import Allocation, CopiedRows, PageTable

CHUNK = 2 * PAGE_TOKENS


def prompt(*pages: int, tail: int = 1) -> tuple[int, ...]:
    """One page of a single token per argument, and `tail` tokens behind."""
    return tuple(page for page in pages for _ in range(PAGE_TOKENS)) + (9,) * tail


def allocate(table: PageTable, token_ids: tuple[int, ...], max_new_tokens: int = 1) -> Allocation:
    return table.allocate(page_hashes(token_ids), pages_needed(len(token_ids) + max_new_tokens))


def run_prefill(table: PageTable, allocation: Allocation, token_ids: tuple[int, ...]) -> None:
    for _ in range(2 * len(allocation.pages)):
        table.prefill(allocation, len(token_ids), CHUNK)
    assert allocation.position == len(token_ids) - 1


def run(table: PageTable, token_ids: tuple[int, ...]) -> Allocation:
    """Allocate and prefill."""
    allocation = allocate(table, token_ids)
    run_prefill(table, allocation, token_ids)
    return allocation


def indices(allocation: Allocation) -> list[int]:
    return [page.index for page in allocation.pages]


def test_a_new_table_is_blank() -> None:
    table = PageTable(4)
    assert (table.free_pages, table.total_pages, table.resident()) == (4, 4, frozenset())
    table.validate([])


def test_a_job_takes_its_pages_in_order_and_gives_them_back() -> None:
    table = PageTable(4)
    allocation = allocate(table, prompt(1, 2))
    assert indices(allocation) == [0, 1, 2]
    assert table.free_pages == 1
    table.release(allocation)
    table.release(allocation)
    assert table.free_pages == 4


def test_a_job_that_does_not_fit_changes_nothing() -> None:
    table = PageTable(4)
    allocate(table, prompt(1))
    assert table.pages_required(page_hashes(prompt(2, 3)), 3) == 3
    with pytest.raises(ValueError, match="2 are free"):
        allocate(table, prompt(2, 3))
    assert table.free_pages == 2


def test_more_named_pages_than_pages_are_refused() -> None:
    with pytest.raises(ValueError, match="1 pages"):
        PageTable(4).allocate(page_hashes(prompt(1, 2)), 1)


def test_pages_of_running_jobs_cost_nothing() -> None:
    table = PageTable(4)
    first = allocate(table, prompt(1, 2))
    assert table.pages_required(page_hashes(prompt(1, 2)), 3) == 1
    second = allocate(table, prompt(1, 2))
    assert indices(second) == [0, 1, 3]
    assert table.free_pages == 0
    table.release(first)
    assert table.free_pages == 1
    table.validate([second])


def test_prefill_goes_in_chunks_and_ends_before_the_last_token() -> None:
    table = PageTable(8)
    token_ids = prompt(1, 2, 3, tail=100)
    allocation = allocate(table, token_ids)
    steps = [table.prefill(allocation, len(token_ids), CHUNK) for _ in range(3)]
    assert [(step.cached_tokens, step.start, step.end) for step in steps] == [(0, 0, 512), (0, 512, 867), (0, 867, 867)]


def test_only_full_valid_pages_are_resident() -> None:
    table = PageTable(8)
    token_ids = prompt(1, 2, 3, tail=100)
    allocation = allocate(table, token_ids)
    assert table.resident() == frozenset()
    table.prefill(allocation, len(token_ids), CHUNK)
    assert table.resident() == set(page_hashes(token_ids)[:2])
    run_prefill(table, allocation, token_ids)
    assert table.resident() == set(page_hashes(token_ids))
    table.release(allocation)
    assert table.resident() == set(page_hashes(token_ids))


def test_a_resident_prompt_is_not_computed_again() -> None:
    table = PageTable(8)
    table.release(run(table, prompt(1, 2)))
    again = allocate(table, prompt(1, 2, tail=50))
    assert (again.position, again.cached_tokens) == (512, 512)
    assert table.prefill(again, 562, CHUNK).start == 512


def test_a_job_skips_what_another_has_filled_meanwhile() -> None:
    table = PageTable(8)
    token_ids = prompt(1, 2, 3, 4)
    one, two = allocate(table, token_ids), allocate(table, token_ids)
    assert two.position == 0
    table.prefill(one, len(token_ids), CHUNK)
    step = table.prefill(two, len(token_ids), CHUNK)
    assert (step.cached_tokens, step.start, step.end) == (512, 512, 512)
    assert two.cached_tokens == 512


def test_a_job_goes_on_where_a_cancelled_one_left_off() -> None:
    table = PageTable(8)
    token_ids = prompt(1, 2, 3, 4)
    one, two = allocate(table, token_ids), allocate(table, token_ids)
    table.prefill(one, len(token_ids), CHUNK)
    table.release(one)
    run_prefill(table, two, token_ids)
    assert two.cached_tokens == 512
    table.validate([two])


def test_pages_of_a_job_that_was_cancelled_before_prefill_are_not_resident() -> None:
    table = PageTable(8)
    table.release(allocate(table, prompt(1, 2)))
    assert table.resident() == frozenset()
    assert allocate(table, prompt(1, 2)).position == 0


def test_the_pages_assigned_longest_ago_go_first() -> None:
    table = PageTable(6)
    one, two = run(table, prompt(1)), run(table, prompt(2))
    table.release(two)
    table.release(one)  # released later, but assigned earlier
    run(table, prompt(3, 4, tail=1))
    assert table.resident() == set(page_hashes(prompt(3, 4))) | set(page_hashes(prompt(2)))


def test_use_makes_a_page_young_again() -> None:
    table = PageTable(5)
    table.release(run(table, prompt(1)))
    table.release(run(table, prompt(2)))
    table.release(run(table, prompt(1)))
    run(table, prompt(3, 4))
    assert page_hashes(prompt(1))[0] in table.resident()
    assert page_hashes(prompt(2))[0] not in table.resident()


def test_pages_that_were_reserved_and_never_written_keep_their_content() -> None:
    table = PageTable(3)
    table.release(run(table, prompt(1, 2)))
    greedy = table.allocate((), 3)
    assert table.resident() == frozenset()
    table.fill(greedy, 10)
    table.release(greedy)
    assert table.resident() == {page_hashes(prompt(1, 2))[1]}
    table.validate([])


def test_content_that_was_computed_elsewhere_meanwhile_does_not_come_back() -> None:
    table = PageTable(6)
    table.release(run(table, prompt(1)))
    blank = table.allocate((), 4)
    over_content = table.allocate((), 2)
    assert table.resident() == frozenset()
    table.release(blank)
    again = run(table, prompt(1))
    table.release(over_content)
    assert table.resident() == set(page_hashes(prompt(1)))
    table.validate([again])


def test_a_gap_is_computed_again_with_what_is_behind_it() -> None:
    table = PageTable(4)
    table.release(run(table, prompt(1, 2, 3)))
    other = run(table, prompt(7))  # takes the blank page and the oldest, which is the first of the prompt
    names = page_hashes(prompt(1, 2, 3))
    assert names[0] not in table.resident()
    table.release(other)
    assert allocate(table, prompt(1, 2, 3)).position == 0


def test_full_pages_of_a_completion_get_a_name() -> None:
    table = PageTable(4)
    token_ids = (*prompt(1), *[5] * 255)
    allocation = table.allocate(page_hashes(token_ids), 4)
    run_prefill(table, allocation, token_ids)
    with pytest.raises(ValueError, match="not full"):
        table.complete_page(allocation, b"early")
    table.fill(allocation, 512)
    name = next_hash(page_hashes(token_ids)[0], token_ids[256:512])
    table.complete_page(allocation, name)
    assert table.resident() == set(page_hashes((*token_ids, 5)))
    table.release(allocation)
    assert allocate(table, (*token_ids, 5)).position == 512


def test_two_jobs_that_write_the_same_page_end_up_with_one() -> None:
    table = PageTable(6)
    token_ids = (*prompt(1), *[5] * 255)
    name = next_hash(page_hashes(token_ids)[0], token_ids[256:512])
    one = table.allocate(page_hashes(token_ids), 3)
    two = table.allocate(page_hashes(token_ids), 3)
    for job in (one, two):
        run_prefill(table, job, token_ids)
        table.fill(job, 512)
        table.complete_page(job, name)
    assert one.pages[1] is two.pages[1]
    assert table.free_pages == 2
    table.validate([one, two])


def test_an_idle_page_of_the_same_name_is_cleared() -> None:
    table = PageTable(8)
    token_ids = (*prompt(1), *[5] * 255)
    name = next_hash(page_hashes(token_ids)[0], token_ids[256:512])
    writing = table.allocate(page_hashes(token_ids), 3)
    run_prefill(table, writing, token_ids)
    table.fill(writing, 512)
    table.release(run(table, (*token_ids, 5)))
    assert name in table.resident()
    page = table.complete_page(writing, name)
    assert page is writing.pages[1]
    table.validate([writing])
    table.release(writing)
    assert name in table.resident()


def test_a_name_that_another_job_is_still_computing_is_left_to_it() -> None:
    table = PageTable(8)
    token_ids = (*prompt(1), *[5] * 255)
    name = next_hash(page_hashes(token_ids)[0], token_ids[256:512])
    writing = table.allocate(page_hashes(token_ids), 3)
    run_prefill(table, writing, token_ids)
    reading = allocate(table, (*token_ids, 5, 5))
    table.fill(writing, 512)
    assert table.complete_page(writing, name).hash is None
    assert writing.parent_hash(2) == name
    table.validate([writing, reading])
    run_prefill(table, reading, (*token_ids, 5, 5))
    assert name in table.resident()


def test_the_longest_common_beginning_is_found() -> None:
    table = PageTable(8)
    parent = page_hashes(prompt(1))[0]
    for tail in ((7, 7, 7), (7, 7, 8, 8), (4, 4)):
        token_ids = (*prompt(1, tail=0), *tail, 0)
        allocation = allocate(table, token_ids)
        table.prefill(allocation, len(token_ids), CHUNK, token_ids)
        table.release(allocation)
    match = table.best_partial(parent, (7, 7, 8, 9))
    assert match is not None
    assert (match[0].tokens, match[1]) == ((7, 7, 8, 8), 3)
    assert table.best_partial(parent, (4, 7)) is None
    assert table.best_partial(parent, (4,)) is None
    assert table.best_partial(None, (7, 7, 8)) is None


def test_prefill_copies_a_common_beginning() -> None:
    table = PageTable(8)
    token_ids = (3,) * 100
    first = allocate(table, token_ids)
    table.prefill(first, 100, CHUNK, token_ids)
    other_ids = (3,) * 60 + (4,) * 40
    other = allocate(table, other_ids)
    step = table.prefill(other, 100, CHUNK, other_ids)
    assert (step.cached_tokens, step.start, step.end) == (60, 60, 99)
    assert step.copied == CopiedRows(first.pages[0], other.pages[0], 60)


def test_clear_forgets_everything() -> None:
    table = PageTable(4)
    run(table, prompt(1, 2))
    table.clear()
    assert (table.free_pages, table.resident()) == (4, frozenset())
    table.validate([])


def with_a_nameless_page(table: PageTable) -> tuple[Allocation, Allocation, tuple[int, ...]]:
    """A job whose first page is full and has no name, since a second job, of whose prompt nothing is computed, has it.

    Returns both, and the tokens of the second's prompt: the page, a page of 2, a page of 3 and one token more.
    """
    page = (5,) * PAGE_TOKENS
    writing = table.allocate((), 2)
    reading_ids = (*page, *prompt(2, 3))
    reading = allocate(table, reading_ids)
    table.fill(writing, PAGE_TOKENS, page)
    assert table.complete_page(writing, next_hash(None, page)).hash is None
    return writing, reading, reading_ids


def test_a_page_can_be_copied_whole() -> None:
    table = PageTable(8)
    writing, reading, ids = with_a_nameless_page(table)
    step = table.prefill(reading, len(ids), CHUNK, ids)
    assert step.copied == CopiedRows(writing.pages[0], reading.pages[0], PAGE_TOKENS)
    assert (step.cached_tokens, step.start, step.end) == (256, 256, 512)
    table.validate([writing, reading])


def test_a_round_may_copy_a_whole_page_and_compute_nothing() -> None:
    table = PageTable(8)
    writing, reading, ids = with_a_nameless_page(table)
    step = table.prefill(reading, len(ids), PAGE_TOKENS, ids)
    assert step.copied == CopiedRows(writing.pages[0], reading.pages[0], PAGE_TOKENS)
    assert (step.cached_tokens, step.start, step.end) == (256, 256, 256)
    assert (reading.position, reading.cached_tokens) == (256, 256)
    table.validate([writing, reading])


def test_a_whole_copy_may_be_all_of_a_prompt_but_its_last_token() -> None:
    table = PageTable(8)
    writing = table.allocate((), 2)
    ids = (5,) * (PAGE_TOKENS + 1)
    reading = allocate(table, ids)
    table.fill(writing, PAGE_TOKENS, ids[:PAGE_TOKENS])
    table.complete_page(writing, page_hashes(ids)[0])
    step = table.prefill(reading, len(ids), CHUNK, ids)
    assert step.copied == CopiedRows(writing.pages[0], reading.pages[0], PAGE_TOKENS)
    assert (step.start, step.end, reading.position) == (256, 256, 256)


def test_valid_pages_behind_a_page_that_was_copied_whole_are_found() -> None:
    table = PageTable(12)
    writing, reading, ids = with_a_nameless_page(table)
    table._set_valid(reading.pages[1], PAGE_TOKENS, ids[256:512])  # as if another job had computed it by now
    step = table.prefill(reading, len(ids), CHUNK, ids)
    assert (step.cached_tokens, step.start, step.end) == (256, 256, 256), "the copy ends before the valid page"
    step = table.prefill(reading, len(ids), CHUNK, ids)
    assert (step.cached_tokens, step.copied, step.start, step.end) == (256, None, 512, 768)
    table.validate([writing, reading])


def test_changes_are_told_once_and_net() -> None:
    table = PageTable(4)
    one, two = page_hashes(prompt(1, 2))
    allocation = run(table, prompt(1, 2))
    assert table.take_changes() == ((one, two), ())
    assert table.take_changes() == ((), ())
    table.release(allocation)
    filling = table.allocate((), 4)
    table.release(filling)
    assert table.take_changes() == ((), ()), "both were taken and given back"
    table.release(run(table, prompt(3, 4)))
    table.release(run(table, prompt(5, 6)))
    gone = set(page_hashes(prompt(3, 4))) - table.resident()
    added, evicted = table.take_changes()
    assert set(added) == table.resident() - {one, two}
    assert set(evicted) == {one, two} - table.resident()
    assert gone, "something came and went without a word"
    assert not gone & {*added, *evicted}
    table.clear()
    assert set(table.take_changes()[1]) == set(added) | ({one, two} - set(evicted))


def test_a_table_shows_its_state() -> None:
    table = PageTable(4)
    run(table, prompt(1, 2))
    assert repr(table) == "<PageTable of 4 pages: 1 free, 2 named, 2 resident>"
