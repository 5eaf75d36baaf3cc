"""What the parts of a scheduler say of themselves, in a line, where somebody debugs them."""

from __future__ import annotations

from actors.results import Priority
from actors.scheduling.class_queue import ClassQueue
from actors.scheduling.events import WorkerExpected
from actors.scheduling.placement import Placement
from actors.scheduling.policies import make_policy
from actors.scheduling.room import WorkersRoom
from tests.scheduling.pool import Pool, pages


def crowded_pool() -> Pool:
    """Request "r" runs, "s" is granted, "t" waits; a second worker is expected."""
    pool = Pool()
    pool.up("a", max_batch_size=2, resident=pages("p"))
    pool.handle(WorkerExpected("b"))
    pool.submit("r", 300, 200, page_hashes=pages("p"))
    pool.run("r")
    pool.submit("s", 10, 20)
    pool.now_s = 1.5
    pool.submit("t", 10, 20)
    return pool


def test_a_scheduler() -> None:
    pool = crowded_pool()
    assert repr(pool.scheduler) == "<Scheduler cost at 1.500 s: 1 wait, 2 run on 1 workers, 1 expected>"


def test_its_state() -> None:
    text = repr(crowded_pool().scheduler.state)
    assert text.startswith("<SchedulerState at 1.500 s: 3 requests, <FairQueue: interactive <0 requests of 0 tenants")
    assert "<Fleet: <Worker a#1 up: 2/2 attempts, 13/16 pages free, 10 prompt tokens due, report 1>>" in text
    assert text.endswith("expected ['b']>")
    assert "<Fleet: empty>" in repr(Pool().scheduler.state)


def test_requests() -> None:
    requests = crowded_pool().scheduler.state.requests
    assert repr(requests["r"]) == "<Request 'r' of 'f', attempt 1: running on a#1, 300 + 200 tokens>"
    assert repr(requests["t"]) == "<Request 't' of 'f', attempt 1: queued, 10 + 20 tokens>"


def test_queues() -> None:
    assert repr(ClassQueue({})) == "<0 requests of 0 tenants, 0 s of work, 0 tokens promised>"
    pool = crowded_pool()
    pool.submit("u", 10, 20, priority=Priority.BATCH)
    assert "default <1 requests of 1 tenants" in repr(pool.scheduler.state.queue)
    assert "batch <1 requests of 1 tenants" in repr(pool.scheduler.state.queue)


def test_lanes_and_room() -> None:
    state = crowded_pool().scheduler.state
    assert repr(ClassQueue({}).lanes) == "<Lanes of nobody>"
    assert repr(state.queue._classes[Priority.DEFAULT].lanes) == "<Lanes of 256 tokens>"
    room = WorkersRoom(state.fleet, Placement(state.fleet, make_policy("cost", 0)), Priority.DEFAULT, 1.5, None)
    room.cut_off()
    assert repr(room) == "<WorkersRoom of default: 0 tokens, cut off>"


def test_books() -> None:
    (worker,) = crowded_pool().scheduler.state.fleet
    assert repr(worker.ledger) == "<Ledger: 13/16 pages free, 1 shared by name, 1 resident>"


def test_indexes_and_stories() -> None:
    state = crowded_pool().scheduler.state
    assert repr(state.fleet.known) == "<PageIndex of 1 pages>"
    assert repr(state.journal) == "<Journal of 3 requests>"


def test_what_is_learned() -> None:
    state = crowded_pool().scheduler.state
    (worker,) = state.fleet
    assert repr(worker.model) == "<StepModel 20 ms + 1 ms per job + 250 µs per prompt token, of 0 steps>"
    assert repr(state.lengths) == "<OutputLengths: 50 % of max_new_tokens, 0 tenants seen>"
    assert repr(state.waits).startswith("<WaitEstimator: waits turn out 1 times as long as the work ahead, 0 seen, 9")


def test_placement() -> None:
    state = crowded_pool().scheduler.state
    state.matchmaker.reserved[0] = state.requests["t"]
    assert repr(state.matchmaker) == "<Matchmaker by Cost: workers kept for requests {'t': 0}>"
    placement = Placement(state.fleet, make_policy("cost", 0))
    assert repr(placement) == "<Placement over 1 workers: 0 kept for one request, 0 s of work wait, pages promised {}>"
