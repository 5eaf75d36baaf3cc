"""A worker that was stopped, given up, and goes on although nobody could kill it: nothing that it says is heard."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
import pytest
import ray

from actors.config import EngineConfig
from actors.dispatcher import watchdog
from actors.dispatcher.following import SUSPECT_SILENCE_S, WorkerFollower
from actors.dispatcher.restart_pauses import RestartPauses
from actors.dispatcher.slots import Slot, Slots
from actors.dispatcher.watchdog import Watchdog
from actors.messages import GenerationRequest
from actors.ray_session import open_stream
from actors.sampling import sampling_params
from actors.scheduling.events import Event, Reported, WorkerDown, WorkerSuspected, WorkerUp
from actors.supervisor import Supervisor
from actors.worker.worker import Worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 60.0
REQUEST = GenerationRequest(
    ticket=1,
    request_id="r",
    attempt=1,
    token_ids=(10, 11, 12),
    max_new_tokens=8000,
    seed=0,
    params=sampling_params(temperature=0.0),
)


class Rig:
    """A real worker in the only slot, and all that looks after it."""

    def __init__(self) -> None:
        config = EngineConfig(engine="simulated", simulated={"step_s": 0.01})
        self.worker: Any = ray.remote(Worker).options(num_cpus=0, max_restarts=-1).remote("slot", config)
        self.events: list[Event] = []
        self.slots = Slots()
        self.slot = self.slots.add("slot")
        self.slot.handle = self.worker
        self.supervisor = Supervisor("test")
        self.watchdog = Watchdog(self.supervisor, 60.0, self._ended)
        self.follower = WorkerFollower(
            self.slot, self.slots, handle_event=self._handle, probe=self.watchdog.probe, pauses=RestartPauses(0.0)
        )

    def _handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, WorkerSuspected):  # as the scheduler does
            self.watchdog.probe(self.slot, event.worker_id)

    async def _ended(self, slot: Slot, worker_id: str, reason: str) -> None:
        await self.follower.give_up(worker_id, reason)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Any) -> None:
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_worker_that_goes_on_after_it_was_given_up_is_not_heard_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(watchdog.ray, "kill", lambda *_, **__: None)  # type: ignore[attr-defined]
    rig = Rig()
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        following = group.create_task(rig.follower.follow())
        await rig.until(lambda: rig.of(WorkerUp))
        first = rig.of(WorkerUp)[0].worker_id
        outputs = open_stream(rig.worker.outputs, "front/1")
        await (await anext(outputs))
        assert await rig.worker.take_commands.remote("front/1", (REQUEST,))
        await rig.until(lambda: rig.of(Reported))
        process = psutil.Process((await rig.worker.heartbeat.remote()).pid)
        process.suspend()
        rig.follower.tick(SUSPECT_SILENCE_S)
        await rig.until(lambda: rig.of(WorkerDown))
        told = len(rig.of(Reported))
        process.resume()
        await rig.until(lambda: len(rig.of(WorkerUp)) == 2)
        assert rig.of(WorkerDown)[0].worker_id == first
        assert rig.of(WorkerUp)[1].worker_id != first
        assert len(rig.of(Reported)) == told, "a report of the life that was given up was heard"
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        following.cancel()
    monkeypatch.undo()
    ray.kill(rig.worker)
