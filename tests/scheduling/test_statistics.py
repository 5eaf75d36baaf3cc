"""What a scheduler says of itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from actors.messages import RefusalReason
from actors.results import Priority
from actors.scheduling.events import WorkerExpected
from tests.scheduling.pool import Pool, pages


def test_an_idle_scheduler() -> None:
    told = Pool(policy="lmetric").scheduler.statistics(5.0)
    assert (told.policy, told.now_s, told.submitted, told.running_requests) == ("lmetric", 5.0, 0, 0)
    assert (told.oldest_wait_s, told.estimated_wait_s) == (0.0, 0.0)
    assert not told.workers
    assert not told.tenants
    assert not told.expected_slots


def test_everything_is_told() -> None:
    pool = Pool(tenant_weights={"x": 2.0})
    pool.up(resident=pages("p"), max_batch_size=2)
    pool.handle(WorkerExpected("b"))
    pool.submit("r", 300, 200, page_hashes=pages("p"), tenant="x")
    pool.run("r")
    pool.submit("s", 300, 200)
    pool.run("s")
    pool.now_s = 1.0
    pool.submit("t", priority=Priority.INTERACTIVE, tenant="x")
    pool.submit("u", priority=Priority.BATCH)
    pool.submit("huge", 10**6)
    pool.submit("gone")
    pool.cancel("gone")
    pool.cancel("nobody")
    told = pool.scheduler.statistics(3.0)
    assert told.queued_requests == {Priority.INTERACTIVE: 1, Priority.DEFAULT: 0, Priority.BATCH: 1}
    assert (told.submitted, told.started, told.cancelled, told.running_requests) == (6, 2, 1, 2)
    assert told.refused == {RefusalReason.OVERSIZED: 1}
    assert told.ignored == {"cancellation of an unknown request": 1}
    assert (told.prompt_tokens, told.prefix_hit_tokens) == (600, 256)
    assert told.oldest_wait_s == 2.0
    assert told.estimated_wait_s > 0.0
    assert told.expected_slots == ("b",)
    (worker,) = told.workers
    assert (worker.worker_id, worker.slot_name, worker.state) == ("a#1", "a", "up")
    assert (worker.attempts, worker.max_batch_size, worker.total_pages, worker.free_pages) == (2, 2, 16, 12)
    assert worker.resident_pages == 1
    tenants = {(tenant.priority, tenant.tenant): tenant for tenant in told.tenants}
    assert tenants[Priority.DEFAULT, "x"].virtual_tokens == (44 + 200) / 2
    assert tenants[Priority.DEFAULT, ""].virtual_tokens == 300 + 200
    assert tenants[Priority.INTERACTIVE, "x"].queued_requests == 1


def test_finished_requests_are_counted() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r")
    pool.finish("r")
    assert pool.scheduler.statistics(0.0).finished == 1


def test_the_clock_of_statistics_never_goes_back() -> None:
    pool = Pool()
    pool.tick(10.0)
    assert pool.scheduler.statistics(4.0).now_s == 10.0


def test_statistics_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Pool().scheduler.statistics(0.0).submitted = 5  # type: ignore[misc]


def test_cancelled_requests_are_charged_for_what_they_had() -> None:
    pool = Pool()
    pool.up()
    pool.steps("a#1", 0.1)
    step_s = pool.worker().step_base_s + pool.worker().step_per_job_s
    pool.submit("r", 300, 200)
    pool.run("r")
    pool.now_s = 2.0
    pool.cancel("r")
    (tenant,) = pool.scheduler.statistics(2.0).tenants
    assert tenant.virtual_tokens == pytest.approx(300 + 2 * 2.0 / step_s)


def test_starts_that_nobody_acted_on_cost_no_output() -> None:
    pool = Pool(start_lease_s=60.0, stall_timeout_s=1000.0)
    pool.up()
    pool.submit("r", 300, 200)
    pool.tick(60.0)
    (tenant,) = pool.scheduler.statistics(60.0).tenants
    assert tenant.virtual_tokens == 300
