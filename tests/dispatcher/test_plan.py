"""What a pool's plan says of its workers, and when a new worker falls short of those before."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from actors.config import pool_config
from actors.dispatcher.plan import first_plan, missing_in
from tests.scheduling.pool import LIMITS

PLAN = first_plan(pool_config(name="planned", workers=2), ("worker-0", "worker-1"))


def test_a_new_pool_wants_what_it_was_started_with() -> None:
    assert PLAN.wanted().keys() == {"worker-0", "worker-1"}
    assert [worker.name for worker in PLAN.staying] == ["worker-0", "worker-1"]


def test_names_are_never_used_twice() -> None:
    plan, added = PLAN.remove("worker-1").add()
    assert added.name == "worker-2"
    assert plan.has_named("worker-1")
    assert not any(plan.has_named(name) for name in ("worker-3", "worker-", "worker-x", "1", ""))


def test_a_successor_is_wanted_when_the_one_before_is_gone() -> None:
    plan, added = PLAN.add(after="worker-0")
    plan = plan.leave("worker-0", 5.0, superfluous=False)
    assert plan.wanted().keys() == {"worker-0", "worker-1"}
    assert [worker.name for worker in plan.staying] == ["worker-1", added.name]
    assert plan.remove("worker-0").wanted().keys() == {"worker-1", added.name}


def test_who_is_kept_stays_as_before() -> None:
    assert PLAN.leave("worker-0", 5.0, superfluous=True).keep("worker-0") == PLAN
    assert PLAN.get("worker-7") is None


def test_a_plan_outlives_its_process() -> None:
    plan = replace(PLAN, limits=(LIMITS,))
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"context_tokens": 8192, "total_pages": 17, "supported_parameters": frozenset("ab")}, None),
        ({"tokenizer": ""}, None),
        ({"tokenizer": "another"}, "The new model has another tokenizer than the pool's."),
        ({"vocab_size": 4096}, "The new model has 4096 tokens, the pool's model has 2048."),
        ({"context_tokens": 1024}, "The new workers have 1024 tokens of context, the pool's have 4096."),
        ({"total_pages": 15}, "The new workers have 15 pages of cache, the pool's have 16."),
        ({"supported_parameters": frozenset()}, "The new engine does not support a."),
    ],
)
def test_a_new_worker_may_not_fall_short_of_those_before(changes: dict[str, Any], words: str | None) -> None:
    before = replace(LIMITS, supported_parameters=frozenset("a"), tokenizer="one")
    assert missing_in(replace(before, **changes), (before, before)) == words
    assert missing_in(replace(before, **changes), ()) is None
