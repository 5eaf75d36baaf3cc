"""The watchdog, with real workers: it ends the life that hangs, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import ray

from actors.config import EngineConfig
from actors.dispatcher import watchdog
from actors.dispatcher.slots import Slot
from actors.dispatcher.watchdog import Watchdog
from actors.messages import Cancellation, GenerationRequest, Heartbeat, WorkerReady
from actors.ray_session import cancel_stream, open_stream
from actors.sampling import sampling_params
from actors.supervisor import Supervisor
from actors.worker.worker import Worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 30.0
STALL_S = 0.5
REQUEST = GenerationRequest(
    ticket=1,
    request_id="r",
    attempt=1,
    token_ids=(10, 11, 12),
    max_new_tokens=100,
    seed=0,
    params=sampling_params(temperature=0.0),
)


class _Rig:
    """A worker in a slot, and a watchdog over it."""

    def __init__(self, **simulated: Any) -> None:
        config = EngineConfig(engine="simulated", simulated=simulated)
        self.worker: Any = ray.remote(Worker).options(num_cpus=0).remote("slot", config)
        self.slot = Slot("slot")
        self.slot.handle = self.worker
        self.supervisor = Supervisor("test")
        self.ended: list[tuple[str, str]] = []
        self.watchdog = Watchdog(self.supervisor, STALL_S, self._ended)
        self.process: psutil.Process | None = None

    async def _ended(self, slot: Slot, worker_id: str, reason: str) -> None:
        assert slot is self.slot
        self.ended.append((worker_id, reason))

    async def beat(self) -> Heartbeat:
        beat: Heartbeat = await self.worker.heartbeat.remote()
        return beat

    async def ready(self) -> None:
        stream = open_stream(self.worker.reports)
        async for reference in stream:
            if isinstance(await reference, WorkerReady):
                break
        cancel_stream(stream)
        beat = await self.beat()
        self.slot.life, self.process = beat.worker_id, psutil.Process(beat.pid)

    async def hang(self) -> None:
        """Have the engine begin a step that does not end."""
        self.outputs = open_stream(self.worker.outputs, "front/1")
        await (await anext(self.outputs))
        assert await self.worker.take_commands.remote("front/1", (REQUEST, Cancellation(99)))
        while (await self.beat()).turn_age_s <= STALL_S:
            await asyncio.sleep(0.05)

    async def probe(self, worker_id: str) -> None:
        self.watchdog.probe(self.slot, worker_id)
        while len(self.supervisor):
            await asyncio.sleep(0.02)

    def alive(self) -> bool:
        assert self.process is not None
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[_Rig]:
    async with asyncio.timeout(2 * WAIT_S):
        made = _Rig(**getattr(request, "param", {}))
        await made.ready()
        yield made
        ray.kill(made.worker)


async def test_a_worker_that_waits_for_work_lives(rig: _Rig) -> None:
    assert rig.slot.life is not None
    await rig.probe(rig.slot.life)
    assert rig.alive()


@pytest.mark.parametrize("rig", [{"stall_at_step": 1}], indirect=True)
async def test_a_worker_that_hangs_in_a_step_ends(rig: _Rig) -> None:
    assert rig.slot.life is not None
    await rig.hang()
    await rig.probe(rig.slot.life)
    while rig.alive():
        await asyncio.sleep(0.05)
    ((worker_id, reason),) = rig.ended
    assert worker_id == rig.slot.life
    assert "in one step" in reason


@pytest.mark.parametrize("rig", [{"stall_at_step": 1}], indirect=True)
async def test_a_probe_of_a_former_life_ends_nothing(rig: _Rig) -> None:
    await rig.hang()
    await rig.probe("slot#formerlife")
    await rig.worker.end.remote("slot#formerlife", "it hung")
    assert rig.alive()


async def test_a_worker_that_does_not_answer_is_killed_if_it_is_still_the_one(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rig.slot.life is not None
    assert rig.process is not None
    monkeypatch.setattr(watchdog, "ANSWER_TIMEOUT_S", 1.0)
    rig.process.suspend()
    await rig.probe("slot#formerlife")
    assert rig.alive(), "another life sits there now"
    assert rig.ended == []
    await rig.probe(rig.slot.life)
    while rig.alive():
        await asyncio.sleep(0.05)
    assert rig.ended == [(rig.slot.life, "it did not answer within 1 s")]
