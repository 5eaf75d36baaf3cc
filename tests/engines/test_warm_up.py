"""The tokens that an engine makes before its first request: they come, and nothing is left of them."""

from __future__ import annotations

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import PageChanges
from actors.engines.cpu import CpuEngine
from actors.engines.cpu.batch import Batch
from actors.messages import LoadProgress


def loaded(**settings: object) -> tuple[CpuEngine, list[LoadProgress]]:
    engine = CpuEngine(EngineConfig(**{"model": builtin_model_path(), "cache_tokens": 4096, **settings}))
    told: list[LoadProgress] = []
    engine.load(told.append)
    return engine, told


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for every step in which a model computes."""
    made: list[int] = []
    step = Batch.step

    def counting(self: Batch, events: list[object]) -> None:
        made.append(len(self))
        step(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "step", counting)
    return made


def test_it_generates_before_it_is_ready_and_nothing_is_left_of_that(steps: list[int]) -> None:
    engine, told = loaded()
    try:
        assert max(steps) == 2, "two jobs decode together"
        assert told[-2:] == [LoadProgress("warm-up", 0, 1), LoadProgress("warm-up", 1, 1)]
        assert not engine.has_work()
        assert engine.resident_pages() == frozenset()
        assert engine.page_changes() == PageChanges()
        capacity = engine.capacity()
        assert (capacity.free_pages, capacity.active_jobs, capacity.pending_jobs) == (capacity.total_pages, 0, 0)
    finally:
        engine.close()


@pytest.mark.parametrize("settings", [{"max_batch_size": 1}, {"context_tokens": 2}])
def test_the_smallest_engine_can_do_it(steps: list[int], settings: dict[str, int]) -> None:
    engine, _ = loaded(**settings)
    engine.close()
    assert steps


def test_it_can_be_switched_off(steps: list[int]) -> None:
    engine, told = loaded(warm_up=False)
    engine.close()
    assert not steps
    assert all(one.stage != "warm-up" for one in told)
