"""What came out of a run, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actors.results import Priority
from actors.scheduling.simulator.intervals import interval, t_quantile
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.metrics import Slo, Spread, makespan_bound_s, measure, spread, unlimited_hits
from actors.scheduling.simulator.workers import WorkerSpec
from tests.scheduling.simulator.rig import PLAIN, job


def served(name: str, *, at_s: float, ttft_s: float, e2e_s: float, output: int, tenant: str = "") -> Job:
    one = job(name, at_s=at_s, output=output)
    one.tenant, one.computed_tokens = tenant, one.prompt_tokens
    one.first_token_s, one.done_s = at_s + ttft_s, at_s + e2e_s
    return one


def test_service_levels() -> None:
    slo = Slo(ttft_s=2.0, tpot_s=0.1)
    assert slo.met(served("a", at_s=5.0, ttft_s=2.0, e2e_s=2.89, output=10))
    assert not slo.met(served("b", at_s=5.0, ttft_s=2.1, e2e_s=2.2, output=10)), "its first token is late"
    assert not slo.met(served("c", at_s=5.0, ttft_s=1.0, e2e_s=2.0, output=10)), "0.111 s per token"
    assert slo.met(served("d", at_s=5.0, ttft_s=1.0, e2e_s=1.0, output=1)), "a single token has no next one"
    assert not slo.met(job("e")), "never served"


def test_a_run_is_summed_up() -> None:
    good = served("a", at_s=0.0, ttft_s=1.0, e2e_s=1.9, output=10, tenant="x")
    late = served("b", at_s=1.0, ttft_s=9.0, e2e_s=9.0, output=1, tenant="y")
    late.priority = Priority.BATCH
    refused = job("c", at_s=2.0)
    refused.refused, refused.tenant = "wait_too_long", "y"
    outcome = measure([good, late, refused], Slo(tpot_s=0.11), [PLAIN])
    assert outcome.requests == 3
    assert [outcome.goodput, outcome.rejected] == pytest.approx([1 / 3, 1 / 3])
    assert outcome.goodput_per_s == pytest.approx(1 / 10.0), "one good request in the 10 s until all is done"
    assert outcome.rejections == {"wait_too_long": 1}
    assert outcome.ttft_s.mean == pytest.approx(5.0)
    assert outcome.tpot_s.mean == pytest.approx((0.1 + 0.0) / 2)
    assert outcome.e2e_s.p50 == pytest.approx((1.9 + 9.0) / 2)
    assert outcome.makespan_s == 10.0
    assert {name: group.goodput for name, group in outcome.tenants.items()} == {"x": 1.0, "y": 0.0}
    assert outcome.tenants["y"].rejected == 0.5
    assert outcome.tenants["x"].service == pytest.approx((100 + 20) / (100 + 20 + 100 + 2))
    assert sum(group.service for group in outcome.classes.values()) == pytest.approx(1.0)
    assert list(outcome.classes) == ["batch", "default"]
    assert outcome.decision_us is None


def test_nothing_served() -> None:
    refused = job("a")
    refused.refused = "oversized"
    outcome = measure([refused], Slo(), [PLAIN])
    assert (outcome.goodput, outcome.goodput_per_s, outcome.makespan_s, outcome.bound_s) == (0.0, 0.0, 0.0, 0.0)
    assert outcome.ttft_s == Spread(0.0, 0.0, 0.0)


def test_percentiles() -> None:
    assert spread([float(i) for i in range(101)]) == Spread(50.0, 50.0, 99.0)


def test_an_unlimited_cache_holds_what_came_before() -> None:
    """1,024 and 900 tokens share 3 whole pages, the last token is always computed; the third begins otherwise."""
    jobs = [
        job("b", at_s=1.0, prompt=900, shared=1),
        job("a", at_s=0.0, prompt=1024, shared=1),
        job("c", at_s=2.0, prompt=900, shared=2),
    ]
    assert unlimited_hits(jobs) == {"a": 0, "b": 768, "c": 0}


def test_bound_of_the_longest_job() -> None:
    """Alone on the faster worker: 1,000 tokens at 0.05 s and 100 prompt tokens at 0.5 ms, from 3 s on."""
    jobs = [job("a", at_s=0.0, output=1), job("b", at_s=3.0, prompt=100, output=1000)]
    assert makespan_bound_s(jobs, [PLAIN, PLAIN.at_speed(2.0)]) == pytest.approx(3.0 + 50.0 + 0.05)


def test_bound_of_all_work() -> None:
    """40 jobs: 4,000 tokens at 0.1 / 2 s and 4,000 prompt tokens at 1 ms are 204 s for one; 2 and a half share it."""
    jobs = [job(f"r{i}", prompt=100, output=100) for i in range(40)]
    workers = [PLAIN, PLAIN, PLAIN.at_speed(0.5)]
    assert makespan_bound_s(jobs, workers) == pytest.approx(204 / 2.5)


def test_the_bound_counts_a_shared_prefix_once() -> None:
    jobs = [job(f"r{i}", at_s=0.01 * i, prompt=1025, shared=1) for i in range(50)]
    spec = replace(PLAIN, max_batch_size=50)
    assert makespan_bound_s(jobs, [spec]) == pytest.approx(50 * 0.1 / 50 + 1.025 + 49 * 0.001)


def test_bounds_hold_for_decoding_that_costs_per_job() -> None:
    spec = WorkerSpec(base_s=0.1, per_job_s=0.01, max_batch_size=10, prefill_tokens_per_s=1e9)
    jobs = [job(f"r{i}", output=100) for i in range(100)]
    assert makespan_bound_s(jobs, [spec]) == pytest.approx(10_000 * (0.1 / 10 + 0.01), rel=1e-3)


def test_confidence_intervals() -> None:
    """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), and t of 2 degrees of freedom is 4.303."""
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert str(interval([0.5, 0.5])) == "50.0 ± 0.0"
    assert str(interval([0.5])) == "50.0"


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (29, 2.045)])
def test_student_t(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, rel=0.01)
