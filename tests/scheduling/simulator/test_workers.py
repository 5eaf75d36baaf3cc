"""Simulated workers, to the millisecond, and the loop round them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.scheduling.simulator.loop import Death, Simulation
from actors.scheduling.simulator.workers import MAX_SKIPS, WorkerSpec
from tests.scheduling.simulator.rig import PLAIN, InOrder, job, pool, simulate


def test_one_job_alone() -> None:
    """100 prompt tokens: a step of 0.1 + 0.1 s computes them and decodes; two more of 0.1 s follow."""
    one = job("a", at_s=1.0, prompt=100, output=3)
    simulate([one], pool())
    assert one.ttft_s == pytest.approx(0.2)
    assert one.e2e_s == pytest.approx(0.4)
    assert one.tpot_s == pytest.approx(0.1)
    assert one.computed_tokens == 100


def test_a_long_prompt_takes_a_step_per_chunk() -> None:
    """1,200 tokens in chunks of 512, 512 and 176: 0.612 + 0.612 + 0.276 s."""
    one = job("a", prompt=1200)
    simulate([one], pool())
    assert one.e2e_s == pytest.approx(1.5)


def test_a_prompt_delays_those_who_decode() -> None:
    """`a` decodes alone until 0.6 s. `b` is seen when that step ends and makes the next one 0.6 s long."""
    first, second = job("a", prompt=100, output=10), job("b", at_s=0.55, prompt=500, output=1)
    simulate([first, second], pool())
    assert second.ttft_s == pytest.approx(0.6 + 0.6 - 0.55)
    assert first.e2e_s == pytest.approx(0.2 + 8 * 0.1 + 0.6)


def test_decoding_takes_its_time_per_job() -> None:
    """Alone, 0.1 + 0.05 s and 0.1 s for the prompt; both, 0.1 + 2 x 0.05 s and the other prompt; the second alone."""
    jobs = [job("a", output=2), job("b", output=2)]
    simulate(jobs, pool(replace(PLAIN, per_job_s=0.05)))
    assert [one.e2e_s for one in jobs] == pytest.approx([0.25 + 0.3, 0.25 + 0.3 + 0.15])


def test_slots_bound_what_runs_at_once() -> None:
    """A first step with `a` alone; in the second there is room for `b`, and with three slots for `c` too."""
    two, three = ([job(name, output=2) for name in "abc"] for _ in range(2))
    simulate(two, pool())
    simulate(three, pool(replace(PLAIN, max_batch_size=3)))
    assert [one.ttft_s for one in two] == pytest.approx([0.2, 0.2 + 0.2, 0.4 + 0.2])
    assert [one.ttft_s for one in three] == pytest.approx([0.2, 0.2 + 0.3, 0.2 + 0.3])


def test_pages_are_reserved_up_front_by_what_a_job_may_emit() -> None:
    """Two jobs of 5 of the 8 pages, most of them for tokens that never come, run one after the other."""
    jobs = [job(name, prompt=100, output=2, bound=1000) for name in "ab"]
    simulate(jobs, pool())
    assert [one.ttft_s for one in jobs] == pytest.approx([0.2, 0.3 + 0.2])


def test_a_shared_prefix_is_neither_computed_nor_paid_twice() -> None:
    """1,024 tokens are 3 shareable pages and one that is computed anew."""
    jobs = [job("a", prompt=1024, output=2, shared=1), job("b", at_s=5.0, prompt=1024, output=2, shared=1)]
    dispatcher = simulate(jobs, pool())
    assert [one.computed_tokens for one in jobs] == [1024, 256]
    assert jobs[1].ttft_s == pytest.approx(0.1 + 0.256)
    started = [start for _, report in dispatcher.reports for start in report.started]
    assert [(start.request_id, start.cached_tokens) for start in started] == [("a", 0), ("b", 768)]


def test_prompts_that_begin_alike_share_what_one_of_them_has_computed_by_then() -> None:
    """`b` comes when two pages of `a` are computed, and finds the third before it gets there itself."""
    jobs = [job(name, prompt=1024, output=2, shared=1) for name in "ab"]
    dispatcher = simulate(jobs, pool())
    assert [one.computed_tokens for one in jobs] == [1024, 256]
    started = [start for _, report in dispatcher.reports for start in report.started]
    assert [(start.request_id, start.cached_tokens) for start in started] == [("a", 0), ("b", 512)]


def test_reports_tell_pages_once_they_are_computed_and_when_they_are_gone() -> None:
    first, second = job("a", prompt=1024, output=2), job("b", at_s=5.0, prompt=1900, output=1, shared=7)
    dispatcher = simulate([first, second, job("z", at_s=50.0)], pool())
    changes = [(report.pages_added, report.pages_evicted) for _, report in dispatcher.reports]
    assert [(set(added), set(evicted)) for added, evicted in changes[:2]] == [
        (set(first.pages[:2]), set()),
        (set(first.pages[2:]), set()),
    ]
    assert {page for _, evicted in changes for page in evicted} == set(first.all_pages), "all 8 pages were needed"
    assert {page for added, _ in changes for page in added} == {*first.all_pages, *second.all_pages}


def test_the_next_turn_of_a_chat_finds_the_answer_of_the_last() -> None:
    first = job("a", prompt=500, output=300, shared=1)
    second = job("b", at_s=100.0, prompt=900, output=1, shared=1)
    simulate([first, second], pool())
    assert second.computed_tokens == 900 - 3 * 256, "800 tokens filled three pages"


def test_a_job_that_was_skipped_too_often_lets_nobody_pass() -> None:
    """`big` waits for all pages, small ones go before it, but only so many."""
    small = [job(f"s{i}", at_s=0.01 * i, output=4) for i in range(20)]
    big = job("big", at_s=0.015, prompt=100, output=1, bound=1900)
    simulate([*small, big], pool())
    assert big.first_token_s is not None
    before = sum(one.first_token_s is not None and one.first_token_s < big.first_token_s for one in small)
    assert 2 < before <= 2 * (MAX_SKIPS + 1)


def test_reports_come_late_and_tell_the_steps() -> None:
    one = job("a", prompt=600, output=5)
    dispatcher = simulate([one, job("z", at_s=50.0)], pool(report_lag_s=0.25))
    at_s, first = dispatcher.reports[0]
    assert at_s == pytest.approx(0.612 + 0.25)
    assert (first.steps[0].prefill_tokens, first.steps[0].decode_batch) == (512, 0)
    assert first.steps[0].duration_s == pytest.approx(0.612)
    assert [report.sequence for _, report in dispatcher.reports] == list(range(1, len(dispatcher.reports) + 1))
    done = [(at_s, end) for at_s, report in dispatcher.reports for end in report.finished if end.request_id == "a"]
    assert done[0][0] == pytest.approx(one.e2e_s + 0.25)
    assert done[0][1].completion_tokens == 5


def test_a_death_costs_what_the_worker_held_and_no_emitted_token() -> None:
    """The worker dies at 0.75 s, amid its seventh step: 6 tokens were out. The next worker of the slot comes at 10.75
    s, computes 100 + 6 tokens and emits the 4 that are left: 0.206 + 3 x 0.1 s."""
    one = job("a", prompt=100, output=10)
    dispatcher = simulate([one], pool(deaths=(Death(at_s=0.75, index=0, restart_s=10.0),)))
    assert dispatcher.downs == ["w0#1"]
    assert dispatcher.arrived == [(0.0, "a", 1), (0.75, "a", 2)]
    assert one.killers == {"w0#1"}
    assert one.ttft_s == pytest.approx(0.2), "the first token was out before"
    assert one.emitted_tokens == 6
    assert one.computed_tokens == 100 + 106
    assert one.done_s == pytest.approx(10.75 + 0.206 + 3 * 0.1)


def test_a_job_that_is_sent_to_a_dead_worker_comes_back() -> None:
    of = replace(pool(deaths=(Death(at_s=1.0, index=0, restart_s=5.0),)), grant_lag_s=0.5)
    one = job("a", at_s=0.8)
    dispatcher = simulate([one], of)
    assert [attempt for _, _, attempt in dispatcher.arrived] == [1, 2]
    assert one.done_s == pytest.approx(6.0 + 0.5 + 0.2)


def test_reports_of_the_dead_are_not_delivered() -> None:
    jobs = [job("a", prompt=100, output=3), job("z", at_s=50.0)]
    dispatcher = simulate(jobs, pool(deaths=(Death(at_s=0.25, index=0, restart_s=5.0),), report_lag_s=0.1))
    assert {report.worker_id for _, report in dispatcher.reports} == {"w0#2"}


def test_a_worker_that_is_down_cannot_die_again() -> None:
    one = job("a", prompt=100, output=30)
    deaths = (Death(at_s=0.25, index=0, restart_s=5.0), Death(at_s=1.0, index=0, restart_s=99.0))
    dispatcher = simulate([one], pool(deaths=deaths))
    assert dispatcher.downs == ["w0#1"]
    assert one.done_s is not None
    assert one.done_s < 10


def test_speed_scales_every_time() -> None:
    half = PLAIN.at_speed(0.5)
    one = job("a", prompt=100, output=3)
    simulate([one], pool(half))
    assert one.e2e_s == pytest.approx(0.8)
    assert (half.total_pages, half.max_batch_size, half.chunk_tokens) == (8, 2, 512)


def test_noise_is_even_around_one_and_the_same_for_a_seed() -> None:
    noisy = replace(WorkerSpec(), noise=0.2)

    def steps(seed: int) -> list[float]:
        jobs = [job(f"r{i}", at_s=i * 100.0, prompt=10, output=1) for i in range(300)]
        dispatcher = InOrder()
        Simulation(jobs, replace(pool(noisy), seed=seed), dispatcher).run()
        return [step.duration_s for _, report in dispatcher.reports for step in report.steps]

    plain_s = 0.015 + 0.0006 + 10 / 5000
    one = steps(1)
    assert one == steps(1)
    assert one != steps(2)
    assert sum(one) / len(one) == pytest.approx(plain_s, rel=0.03)
    assert all(0.8 * plain_s <= step <= 1.2 * plain_s for step in one)
