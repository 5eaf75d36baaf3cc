"""How a front finds workers that came after its greeting. Without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import ray

from actors.front.attempt_output import AttemptLost
from actors.front.worker_handles import WorkerHandles


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the cluster was asked for; it knows those of slot "late"."""
    names: list[str] = []

    def get_actor(name: str, namespace: str) -> Any:
        names.append(name)
        if not name.endswith(".late"):
            raise ValueError(f"no actor named {name}")
        return "handle of late"

    monkeypatch.setattr(ray, "get_actor", get_actor)
    return names


async def test_who_was_there_at_the_greeting_is_not_looked_for(asked: list[str]) -> None:
    assert await WorkerHandles("pool", {"slot": "handle"}).of("slot#1") == "handle"
    assert asked == []


async def test_who_came_later_is_found_by_name_once_for_all_who_ask(asked: list[str]) -> None:
    handles = WorkerHandles("pool", {})
    found = await asyncio.gather(*(handles.of(f"late#{life}") for life in (1, 1, 2)))
    assert found == ["handle of late"] * 3
    assert asked == ["pool.late"]


async def test_who_is_not_needed_is_forgotten_and_found_again(asked: list[str]) -> None:
    handles = WorkerHandles("pool", {"slot": "handle", "late": "old"})
    handles.keep_only(["slot#1"])
    assert await handles.of("slot#1") == "handle"
    assert await handles.of("late#1") == "handle of late"


async def test_an_attempt_on_a_worker_that_has_left_is_lost(asked: list[str]) -> None:
    handles = WorkerHandles("pool", {})
    for _ in range(2):
        with pytest.raises(AttemptLost, match="worker gone#1 was not found"):
            await handles.of("gone#1")
    assert asked == ["pool.gone"] * 2


async def test_after_the_end_nobody_is_looked_for(asked: list[str]) -> None:
    handles = WorkerHandles("pool", {})
    handles.shut_down()
    with pytest.raises(AttemptLost):
        await handles.of("late#1")
    assert asked == []
