"""The invariants: every fault that is planted in the state is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.scheduling.fleet import Column
from actors.scheduling.records import RequestState
from actors.scheduling.state import SchedulerState
from actors.scheduling.validation import validate
from tests.scheduling.pool import Pool, pages, request


def sound_state() -> SchedulerState:
    """Request "r" runs with a shared page, "s" is granted, "t" waits."""
    pool = Pool(max_queued_requests=1)
    pool.up("a", max_batch_size=2, resident=pages("p"))
    pool.submit("r", 300, 200, page_hashes=pages("p"))
    pool.run("r")
    pool.submit("s", 10, 20)
    pool.submit("t", 10, 20)
    return pool.scheduler.state


def forget(s: SchedulerState) -> None:
    del s.requests["r"]


def forget_waiting(s: SchedulerState) -> None:
    del s.requests["t"]


def rename(s: SchedulerState) -> None:
    s.requests["r"].request_id = "x"


def run_without_worker(s: SchedulerState) -> None:
    s.requests["t"].state = RequestState.RUNNING


def wait_and_run(s: SchedulerState) -> None:
    s.requests["r"].state = RequestState.QUEUED


def lose_worker(s: SchedulerState) -> None:
    s.requests["r"].worker = None


def lose_booking(s: SchedulerState) -> None:
    s.requests["r"].booking = None


def leave_queue(s: SchedulerState) -> None:
    s.queue.remove(s.requests["t"])


def lose_tenant_entry(s: SchedulerState) -> None:
    queue = s.queue._classes[s.requests["t"].admission.priority]
    queue.requests = 0


def lose_work(s: SchedulerState) -> None:
    s.queue._classes[s.requests["t"].admission.priority].work = 0.0


def lose_weight(s: SchedulerState) -> None:
    s.queue._classes[s.requests["t"].admission.priority].waiting_weight = 0.0


def lose_page(s: SchedulerState) -> None:
    next(iter(s.fleet)).ledger.used_pages -= 1


def lose_reference(s: SchedulerState) -> None:
    next(iter(s.fleet)).ledger._references[b"p"] += 1


def lose_index_entry(s: SchedulerState) -> None:
    s.fleet.referenced.discard(b"p", 1)


def lose_known_page(s: SchedulerState) -> None:
    s.fleet.known.discard(b"p", 1)


def shrink_pages(s: SchedulerState) -> None:
    worker = next(iter(s.fleet))
    worker.limits = replace(worker.limits, total_pages=2)
    worker.ledger.total_pages = 2


def shrink_slots(s: SchedulerState) -> None:
    worker = next(iter(s.fleet))
    worker.limits = replace(worker.limits, max_batch_size=1)


def miscount_prefill(s: SchedulerState) -> None:
    next(iter(s.fleet)).pending_prefill_tokens += 1


def miscount_tokens(s: SchedulerState) -> None:
    next(iter(s.fleet)).outstanding_tokens += 1


def miscount_slots(s: SchedulerState) -> None:
    next(iter(s.fleet)).foreground_slots += 1


def miscount_pages(s: SchedulerState) -> None:
    next(iter(s.fleet)).foreground_pages += 1


def miscount_background(s: SchedulerState) -> None:
    next(iter(s.fleet)).background_prefills += 1


def old_pages(s: SchedulerState) -> None:
    s.fleet.state[Column.FREE_PAGES, 0] += 1


def old_batch(s: SchedulerState) -> None:
    s.fleet.state[Column.BATCH, 0] += 1


def keep_for_nobody(s: SchedulerState) -> None:
    s.matchmaker.reserved[0] = request("x")


def keep_unknowingly(s: SchedulerState) -> None:
    s.matchmaker.reserved[0] = s.requests["t"]


def keep_what_is_gone(s: SchedulerState) -> None:
    s.fleet.by_index.append(None)
    s.matchmaker.reserved[1] = s.requests["t"]
    s.requests["t"].reserves = 1


def wait_for_ever(s: SchedulerState) -> None:
    s.requests["t"].estimated_wait_s = float("inf")


def overfill(s: SchedulerState) -> None:
    one = request("u")
    s.requests["u"] = one
    s.queue.push(one)


def run_twice(s: SchedulerState) -> None:
    worker = next(iter(s.fleet))
    other = s.fleet.add("b#1", "b", worker.limits, 0)
    other.attempts["r"] = s.requests["r"]


def run_a_stranger(s: SchedulerState) -> None:
    worker = next(iter(s.fleet))
    worker.attempts["r"] = request("r")


FAULTS: tuple[Callable[[SchedulerState], None], ...] = (
    forget,
    forget_waiting,
    rename,
    run_without_worker,
    wait_and_run,
    lose_worker,
    lose_booking,
    leave_queue,
    lose_tenant_entry,
    lose_work,
    lose_weight,
    lose_page,
    lose_reference,
    lose_index_entry,
    lose_known_page,
    shrink_pages,
    shrink_slots,
    miscount_prefill,
    miscount_tokens,
    miscount_slots,
    miscount_pages,
    miscount_background,
    old_pages,
    old_batch,
    keep_for_nobody,
    keep_unknowingly,
    keep_what_is_gone,
    wait_for_ever,
    overfill,
    run_twice,
    run_a_stranger,
)


def test_a_sound_state_passes() -> None:
    validate(sound_state())


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_is_found(plant: Callable[[SchedulerState], None]) -> None:
    subject = sound_state()
    plant(subject)
    with pytest.raises(AssertionError):
        validate(subject)
