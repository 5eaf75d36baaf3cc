"""What a start waits for, and what it raises."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

from actors import ConfigurationError, ModelError, WorkerState
from actors.config import pool_config
from actors.script.starting import wait_until_ready

STARTING = WorkerState(
    slot_name="worker-0",
    worker_id=None,
    limits=None,
    loading=None,
    failure=None,
    restarts=0,
    active_jobs=0,
    generated_tokens=0,
    finished_requests=0,
)
UP = replace(STARTING, slot_name="worker-1", worker_id="worker-1#1")
LOST = replace(STARTING, failure=ModelError("It does not fit."))
WAITING = replace(STARTING, waiting="waits for a node with 1 GPU: the cluster has 0 GPUs")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wait for workers that are one after the other in these states; returns how often it looked."""

    def waited(*told: tuple[WorkerState, ...], **settings: Any) -> int:
        seen: list[tuple[WorkerState, ...]] = []

        def get(known: int, timeout: float) -> tuple[int, tuple[WorkerState, ...]]:
            if known + 1 == len(told):
                raise GetTimeoutError("nothing is new")
            return known + 1, told[known + 1]

        monkeypatch.setattr(ray, "get", get)
        dispatcher = SimpleNamespace(progress=SimpleNamespace(remote=lambda known: known))
        wait_until_ready(dispatcher, pool_config(**settings), seen.append)
        return len(seen)

    return waited


def test_the_first_worker_that_can_generate_is_enough(start: Any) -> None:
    assert start((STARTING, STARTING), (STARTING, UP), (UP, UP)) == 2
    assert start((STARTING, STARTING), (STARTING, UP), (UP, UP), wait_for="all") == 3


def test_one_that_fails_before_that_fails_the_start_and_one_that_fails_later_does_not(start: Any) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        start((STARTING, STARTING), (LOST, STARTING), (LOST, UP))
    assert start((STARTING, STARTING), (LOST, UP)) == 2
    with pytest.raises(ModelError, match="does not fit"):
        start((STARTING, STARTING), (LOST, UP), wait_for="all")


def test_a_pool_that_fell_asleep_before_anybody_looked_has_started(start: Any) -> None:
    assert start((STARTING,), (), min_workers=0) == 2


def test_when_it_takes_too_long_it_says_what_is_missing(start: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"9 s: worker-0 waits for a node with 1 GPU: .* 0 GPUs, and so"):
        start((WAITING, WAITING), start_timeout_s=9.0)
    with pytest.raises(ConfigurationError, match=r"within 9 s: the cluster may be busy"):
        start((STARTING,), start_timeout_s=9.0)
