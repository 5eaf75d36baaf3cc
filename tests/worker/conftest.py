"""Engine threads that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from actors.config import EngineConfig
from actors.engines.simulated import SimulatedEngine
from actors.worker.commands import Stop
from tests.worker.harness import WAIT_S, Harness


@pytest.fixture
def start() -> Iterator[Any]:
    running: list[Harness] = []

    def make(engine: SimulatedEngine | None = None, **simulated: Any) -> Harness:
        config = EngineConfig(engine="simulated", cache_tokens=8192, max_batch_size=8, simulated=simulated)
        running.append(Harness(engine or SimulatedEngine(config)))
        return running[-1]

    yield make
    for one in running:
        one.thread.send(Stop())
        assert one.thread.join(WAIT_S)
