"""Step reports: what is learned from them, and what is made of those that are lost, late, doubled or wrong."""

from __future__ import annotations

import pytest

from actors.messages import AttemptFinished, AttemptStarted, StepReport, StepSample
from actors.scheduling.actions import Resync
from actors.scheduling.events import Reported
from actors.scheduling.health import RESYNC_RETRY_S
from actors.scheduling.records import RequestState
from tests.scheduling.pool import Pool, pages, revocations, starts


def test_a_report_that_comes_twice_counts_once() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r")
    report = StepReport(
        worker_id="a#1", sequence=1, finished=(AttemptFinished("r", 1, 10),), pages_added=pages("p"), generated_tokens=9
    )
    pool.handle(Reported(report))
    pool.submit("r", attempt=2)
    pool.handle(Reported(report))
    assert pool.ignored == {"report came twice or late": 1}
    assert pool.scheduler.statistics(0.0).finished == 1
    assert set(pool.scheduler.state.requests) == {"r"}


def test_a_lost_report_asks_for_the_whole_truth_once() -> None:
    pool = Pool()
    pool.up()
    assert pool.report() == []
    assert pool.report(lost=1) == [Resync("a#1")]
    assert pool.report(lost=2) == []
    assert pool.ignored == {"a report was lost": 2}


def test_a_resync_that_is_not_answered_is_asked_for_again() -> None:
    pool = Pool()
    pool.up()
    pool.report(lost=1)
    assert pool.tick(RESYNC_RETRY_S / 2) == []
    assert pool.tick(RESYNC_RETRY_S / 2) == [Resync("a#1")]
    assert pool.tick(RESYNC_RETRY_S / 2) == []
    pool.report(full=True)
    assert pool.tick(10 * RESYNC_RETRY_S) == []


def test_the_whole_truth_replaces_what_was_believed_of_pages() -> None:
    pool = Pool()
    pool.up(resident=pages("p", "q"))
    pool.report(lost=1, full=True, pages_added=pages("q", "s"))
    known = pool.scheduler.state.fleet.known
    assert [known.mask(page) for page in pages("p", "q", "s")] == [0, 1, 1]
    assert pool.worker().resident_pages == 2


def test_pages_come_and_go_with_reports() -> None:
    pool = Pool()
    pool.up()
    pool.report(pages_added=pages("p", "q"))
    pool.report(pages_added=pages("s"), pages_evicted=pages("p", "never"))
    assert pool.worker().resident_pages == 2
    pool.submit("r", 600, 100, page_hashes=pages("q", "x"))
    assert pool.scheduler.statistics(0.0).prefix_hit_tokens == 256
    pool.report(pages_evicted=pages("q"))
    pool.submit("s", 600, 100, page_hashes=pages("q", "x"))
    assert pool.scheduler.statistics(0.0).prefix_hit_tokens == 256 + 512  # "r" refers to both


def test_an_end_in_a_lost_report_is_found_by_the_whole_truth() -> None:
    pool = Pool()
    pool.up()
    for request_id in ("gone", "runs", "on_its_way"):
        pool.submit(request_id, 10, 10)
    pool.run("gone")
    pool.run("runs")
    actions = pool.report(lost=1, full=True, running=(("runs", 1),))
    assert revocations(actions).keys() == {"gone"}, "its front may have had the end from the worker, or not"
    assert set(pool.scheduler.state.requests) == {"runs", "on_its_way"}
    assert "its end on a#1 was in a lost report" in pool.story("gone")


def test_a_start_in_a_lost_report_is_confirmed_by_the_whole_truth() -> None:
    pool = Pool(start_lease_s=60.0)
    pool.up()
    pool.submit("r")
    pool.report(lost=1, full=True, running=(("r", 1),))
    assert pool.scheduler.state.requests["r"].state is RequestState.RUNNING
    pool.tick(100.0)
    assert pool.free_pages == {"a#1": 14}


def test_another_attempt_of_the_same_request_is_not_the_one_that_runs() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r")
    pool.run("r")
    pool.report(full=True, running=(("r", 2),))
    assert pool.scheduler.state.requests == {}


def test_a_truth_without_names_tells_nothing_of_attempts() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r")
    pool.run("r")
    assert pool.report(full=True) == []
    assert set(pool.scheduler.state.requests) == {"r"}


def test_what_is_reported_of_attempts_that_are_not_booked_is_ignored() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", attempt=2)
    pool.report(
        started=(AttemptStarted("r", 1, 0), AttemptStarted("x", 1, 0)),
        first_tokens=(("r", 3),),
        finished=(AttemptFinished("r", 1, 10),),
    )
    assert pool.ignored == {"report of an attempt that is not booked": 4}
    assert pool.scheduler.state.requests["r"].state is RequestState.GRANTED


@pytest.mark.parametrize("tokens", [-5, 0, 10**9])
def test_impossible_token_counts_are_cut(tokens: int) -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", 300, 200)
    pool.finish("r", tokens=tokens)
    pool.submit("s", 300, 200)
    assert 1.0 <= pool.scheduler.state.requests["s"].expected_tokens <= 200.0
    assert pool.free_pages == {"a#1": 14}


@pytest.mark.parametrize("sequence", [0, -1])
def test_impossible_sequence_numbers_are_ignored(sequence: int) -> None:
    pool = Pool()
    pool.up()
    pool.handle(Reported(StepReport(worker_id="a#1", sequence=sequence, pages_added=pages("p"))))
    assert pool.ignored == {"report came twice or late": 1}
    assert pool.worker().resident_pages == 0


def test_reports_may_go_on_from_any_number() -> None:
    pool = Pool()
    pool.up()
    pool.report(lost=1000)
    pool.report(full=True)
    pool.report()
    assert pool.ignored == {"a report was lost": 1}


# Prefill.


def test_prefill_that_is_due_shrinks_with_the_steps_and_ends_with_the_first_token() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", 1000, 100)
    assert pool.worker().pending_prefill_tokens == 1000
    pool.report(started=(AttemptStarted("r", 1, 0),), steps=(StepSample(0.1, 512, 0),))
    assert pool.worker().pending_prefill_tokens == 488
    pool.submit("s", 1000, 100)
    pool.report(steps=(StepSample(0.1, 400, 0), StepSample(0.1, 300, 0)))
    assert pool.worker().pending_prefill_tokens == 788  # 488 of the first, 212 of the second
    pool.report(first_tokens=(("r", 1), ("s", 1)))
    assert pool.worker().pending_prefill_tokens == 0
    pool.report(steps=(StepSample(0.1, 5000, 0), StepSample(0.1, -5000, 0)))
    assert pool.worker().pending_prefill_tokens == 0


@pytest.mark.parametrize(("cached_tokens", "left"), [(0, 744), (256, 744), (900, 100), (10**6, 0), (-50, 744)])
def test_the_engine_may_find_more_of_a_prompt_than_was_foreseen(cached_tokens: int, left: int) -> None:
    pool = Pool()
    pool.up(resident=pages("p"))
    pool.submit("r", 1000, 100, page_hashes=pages("p", "q"))
    assert pool.worker().pending_prefill_tokens == 744
    pool.report(started=(AttemptStarted("r", 1, cached_tokens),))
    assert pool.worker().pending_prefill_tokens == left


def test_speed_is_learned_from_steps() -> None:
    pool = Pool()
    pool.up("fast")
    pool.up("slow")
    for batch in (1, 2, 4, 3):
        pool.steps("fast#1", 0.010 + 0.001 * batch, batch, count=50)
        pool.steps("slow#1", 0.040 + 0.004 * batch, batch, count=50)
    fast, slow = pool.worker("fast#1"), pool.worker("slow#1")
    assert fast.step_base_s + fast.step_per_job_s == pytest.approx(0.011, rel=0.1)
    assert slow.step_base_s + slow.step_per_job_s == pytest.approx(0.044, rel=0.1)
    assert starts(pool.submit("r")) == {"r": "fast#1"}


def test_impossible_steps_teach_nothing() -> None:
    pool = Pool()
    pool.up()
    before = pool.worker()
    nan, inf = float("nan"), float("inf")
    samples = [(-1.0, 0, 1), (nan, 0, 1), (inf, 0, 1), (0.1, 0, 0), (0.1, -5, 1), (0.1, 5, -1), (1e9, 0, 1)]
    pool.report(steps=tuple(StepSample(*sample) for sample in samples))
    assert pool.worker() == before
