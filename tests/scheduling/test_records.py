"""A worker's books while attempts come and go, and what is expected of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.results import Priority
from actors.scheduling.estimates import StepTimes
from actors.scheduling.fleet import Fleet
from actors.scheduling.records import PEAK_HALF_LIFE_S, Worker, fits
from tests.scheduling.pool import LIMITS, admission, pages, request


def worker_of(**limits: Any) -> Worker:
    return Fleet().add("a#1", "a", replace(LIMITS, **limits), 0)


def test_a_request_knows_its_size() -> None:
    one = request("r", 250, 6, priority=Priority.BATCH)
    assert (one.tokens, one.own_pages, one.foreground, one.request_id) == (256, 1, False, "r")
    assert request("r", 250, 7).own_pages == 2


@pytest.mark.parametrize(
    ("tokens", "limits", "expected"),
    [
        (4096, {}, True),
        (4097, {}, False),
        (1024, {"total_pages": 4}, True),
        (1025, {"total_pages": 4}, False),
        (1024, {"total_pages": 4, "reserve_tokens": 1}, False),
        (1000, {"total_pages": 4, "reserve_tokens": 24}, True),
    ],
)
def test_whether_a_worker_could_ever_run_a_request(tokens: int, limits: dict[str, Any], expected: bool) -> None:
    assert fits(admission("r", tokens - 1, 1), replace(LIMITS, **limits)) is expected


def test_reserved_tokens_are_booked() -> None:
    worker = worker_of(reserve_tokens=10)
    worker.book(request("r", 200, 50), 0.0, 0)
    assert worker.ledger.used_pages == 2
    assert len(worker.attempts) == 1


def test_a_slot_and_pages_are_both_needed() -> None:
    worker = worker_of(max_batch_size=2)
    worker.book(request("r", 3000, 500), 0.0, 0)
    assert worker.could_start(request("s", 400, 112))
    assert not worker.could_start(request("s", 400, 113))
    worker.book(request("t", 10, 10), 0.0, 0)
    assert not worker.could_start(request("s", 1, 1))


def test_shared_pages_need_no_room() -> None:
    worker = worker_of()
    worker.book(request("r", 3400, 184, page_hashes=pages(*"abcdefghijklm")), 0.0, 0)
    assert worker.could_start(request("s", 3400, 184, page_hashes=pages(*"abcdefghijklm")))
    assert not worker.could_start(request("s", 3400, 184))


def test_everything_that_was_booked_is_given_back() -> None:
    worker = worker_of()
    before = (worker.outstanding_tokens, worker.pending_prefill_tokens, worker.foreground_pages, len(worker.attempts))
    requests = [
        request("r", 600, 100, page_hashes=pages("p", "q")),
        request("s", 600, 100, page_hashes=pages("p", "q"), priority=Priority.BATCH),
    ]
    for one in requests:
        worker.book(one, 0.0, 256)
    assert (worker.foreground_pages, worker.foreground_slots, worker.background_prefills) == (3, 1, 1)
    for one in requests:
        worker.release(one)
        assert one.worker is None
        assert one.booking is None
    after = (worker.outstanding_tokens, worker.pending_prefill_tokens, worker.foreground_pages, len(worker.attempts))
    assert before == after
    assert worker.background_prefills == worker.ledger.used_pages == 0


def test_a_prompt_that_is_all_resident_still_has_its_last_token_to_compute() -> None:
    worker = worker_of()
    worker.book(request("r", 256, 10), 0.0, 256)
    assert worker.pending_prefill_tokens == 1


def test_the_peak_of_foreground_requests_fades() -> None:
    worker = worker_of()
    for number in range(4):
        worker.book(request(f"r{number}", 10, 10), 0.0, 0)
    for one in list(worker.attempts.values()):
        worker.release(one)
    worker.book(request("late", 10, 10), PEAK_HALF_LIFE_S, 0)
    assert worker.peak_slots == worker.peak_pages == 2.0
    worker.release(worker.attempts["late"])
    worker.book(request("batch", 10, 10, priority=Priority.BATCH), PEAK_HALF_LIFE_S, 0)
    assert worker.peak_slots == 2.0


def test_output_so_far_is_reckoned_from_the_first_token() -> None:
    worker = worker_of()
    worker.model.times = StepTimes(0.1, 0.0, 0.0)
    one = request("r", 10, 200)
    worker.book(one, 0.0, 0)
    assert worker.likely_output_tokens(one, 50.0) == 0.0
    one.first_token_s = 1.0
    assert worker.likely_output_tokens(one, 3.0) == pytest.approx(20.0)
    assert worker.likely_output_tokens(one, 1e9) == 200.0


def test_ends_are_expected_after_prefill_and_the_expected_length() -> None:
    worker = worker_of()
    worker.model.times = StepTimes(0.1, 0.0, 0.001)
    waits, decodes = request("waits", 1000, 200), request("decodes", 10, 20)
    worker.book(waits, 0.0, 0)
    worker.book(decodes, 0.0, 0)
    worker.prefilled(decodes)
    decodes.first_token_s = 0.0
    (first_s, first_pages), (second_s, second_pages) = worker.expected_ends(0.5)
    assert (first_pages, second_pages) == (1, 5)
    assert first_s == pytest.approx(1.0)
    assert second_s == pytest.approx(0.5 + 1.0 + 10.0)


def test_an_attempt_never_goes_on_beyond_its_bound() -> None:
    worker = worker_of()
    worker.model.times = StepTimes(0.1, 0.0, 0.0)
    one = request("r", 10, 100)
    one.expected_tokens = 80.0
    worker.book(one, 0.0, 0)
    worker.prefilled(one)
    one.first_token_s = 0.0
    ends = [round(worker.expected_ends(now_s)[0][0], 3) for now_s in (0.0, 7.0, 9.5, 50.0)]
    assert ends == [8.0, 9.0, 10.0, 50.1]
