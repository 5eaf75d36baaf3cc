"""Nobody ever reads another's content, whatever jobs do: searched at random, and sequences that once failed."""

from __future__ import annotations

from hypothesis import settings

from tests.paging.random_jobs import Job, JobsOverRows, RandomJobs
from tests.properties import examples

RandomJobs.TestCase.settings = settings(examples(60), stateful_step_count=40)
TestRandomJobs = RandomJobs.TestCase


def started(work: JobsOverRows, pages: list[int], tail: int, last: int, new_tokens: int) -> Job:
    job = work.start(pages, tail, last, new_tokens)
    assert job is not None
    return job


def test_a_page_that_is_copied_whole() -> None:
    """A page of output fills that a waiting prompt begins with: it stays nameless, and is copied from the first row to
    the last, behind which the prompt ends."""
    work = JobsOverRows(4)
    assert work.start([1, 1, 1], 1, 1, 300) is None
    reading = started(work, [1], 1, 1, 1)
    writing = started(work, [], 255, 1, 5)
    assert work.start([], 1, 1, 1) is None
    work.prefill(writing)
    work.decode(writing, 2, 1)
    work.check()
    work.prefill(reading)
    work.check()


def test_a_page_that_is_copied_whole_before_more_is_computed() -> None:
    work = JobsOverRows(8)
    reading = started(work, [1, 2, 2], 1, 1, 1)
    writing = started(work, [], 255, 1, 5)
    work.prefill(writing)
    work.decode(writing, 2, 1)
    work.prefill(reading)
    work.check()
    work.prefill(reading)
    work.check()
    assert reading.allocation.cached_tokens == 256


def test_only_the_page_that_a_round_begins_with_is_copied_whole() -> None:
    work = JobsOverRows(8)
    reading = started(work, [1, 1], 3, 2, 1)
    writing = started(work, [], 255, 1, 300)
    work.prefill(writing)
    work.decode(writing, 258, 1)
    work.check()
    for _ in range(3):
        work.prefill(reading)
        work.check()
    assert reading.allocation.cached_tokens == 256


def test_a_page_that_is_copied_whole_before_a_valid_one() -> None:
    """A third job has computed the page behind it under the same names meanwhile."""
    work = JobsOverRows(12)
    reading = started(work, [1, 1, 2], 1, 1, 1)
    writing = started(work, [], 255, 1, 300)
    other = started(work, [1, 1], 1, 1, 1)
    work.prefill(writing)
    work.decode(writing, 2, 1)
    work.prefill(other)
    work.check()
    work.end(other)
    for _ in range(3):
        work.prefill(reading)
        work.check()
    work.read_changes()
    work.end(reading)
    work.end(writing)
    work.read_changes()
    work.check()


def test_a_source_that_is_given_away_after_the_copy() -> None:
    work = JobsOverRows(5)
    reading = started(work, [1], 3, 2, 1)
    writing = started(work, [], 255, 1, 5)
    work.prefill(writing)
    work.decode(writing, 2, 1)
    work.prefill(reading)
    work.end(writing)
    started(work, [2, 2], 1, 1, 1)
    work.prefill(work.jobs[-1])
    work.check()
