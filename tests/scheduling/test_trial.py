"""A worker whose lives were short is on trial: one attempt at a time, until it has shown that it can generate."""

from __future__ import annotations

import pytest

from actors.messages import RunningAttempt
from actors.results import Priority
from actors.scheduling.events import WorkerExpected, WorkerSuspected, WorkerUp
from actors.scheduling.policies import POLICIES
from actors.scheduling.recording import decode_event, encode_event
from actors.scheduling.reports import TRIAL_S
from tests.scheduling.pool import LIMITS, Pool, admission, starts

NAMES = "pqrs"


def on_trial(**settings: str) -> Pool:
    """Four requests wait for a worker that comes up on trial, and the first of them is started there."""
    pool = Pool(**settings)
    pool.handle(WorkerExpected("a"))
    for name in NAMES:
        assert pool.submit(name) == []
    assert starts(pool.up("a", trial=True)) == {"p": "a#1"}
    assert pool.worker().state == "trial"
    return pool


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_request_is_placed_until_it_has_ended_well(policy: str) -> None:
    pool = on_trial(policy=policy)
    pool.run("p")
    assert pool.tick() == []
    assert pool.submit("batch", priority=Priority.BATCH) == []
    assert len(starts(pool.finish("p"))) > 1
    assert pool.worker().state == "up"


def test_an_attempt_that_goes_on_for_long_enough_ends_the_trial() -> None:
    pool = on_trial()
    pool.run("p")
    assert pool.report(after_s=TRIAL_S - 0.1) == []
    assert len(starts(pool.report(after_s=0.1))) > 1


def test_time_alone_ends_no_trial() -> None:
    """Only what the worker says counts: one that hangs says nothing."""
    pool = on_trial()
    pool.run("p")
    assert pool.tick(TRIAL_S + 1.0) == []
    assert pool.worker().state == "trial"


def test_an_attempt_that_generates_nothing_is_followed_by_another_one() -> None:
    pool = on_trial()
    assert starts(pool.finish("p", tokens=0)) == {"q": "a#1"}
    assert starts(pool.cancel("q")) == {"r": "a#1"}
    pool.finish("q")
    assert pool.worker().state == "trial", "the end of an attempt that was given up shows nothing of those after it"
    assert starts(pool.finish("r")) == {"s": "a#1"}
    assert pool.worker().state == "up"


def test_a_worker_on_trial_that_is_suspected_gets_nothing_and_is_still_on_trial_afterwards() -> None:
    pool = on_trial()
    pool.handle(WorkerSuspected("a#1"))
    assert pool.worker().state == "suspect"
    assert pool.cancel("p") == []
    assert starts(pool.report()) == {"q": "a#1"}
    assert pool.worker().state == "trial"


def test_what_runs_there_already_is_taken_over_and_nothing_is_placed_beside_it() -> None:
    """A dispatcher may have given a worker up that it could not reach, and find it again with what it runs."""
    pool = Pool()
    running = tuple(RunningAttempt(admission(name), 0) for name in ("x", "y"))
    pool.handle(WorkerExpected("a"))
    assert pool.submit("w") == []
    assert pool.up("a", trial=True, running=running) == []
    assert pool.worker().attempts == 2
    assert pool.finish("x", tokens=0) == []
    assert starts(pool.finish("y", tokens=0)) == {"w": "a#1"}


def test_the_others_take_what_a_worker_on_trial_must_not() -> None:
    pool = on_trial()
    assert starts(pool.up("b")) == {"q": "b#1", "r": "b#1"}, "as many prompts as it may have to compute"


def test_a_trial_is_written_down() -> None:
    event = WorkerUp("a#1", "a", LIMITS, trial=True)
    assert decode_event(encode_event(1.0, event)) == (1.0, event)
