"""How the dispatcher follows a worker through its lives, with a worker whose lives a test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import ray

from actors.dispatcher import following
from actors.dispatcher.following import LOADING_SILENCE_S, PAUSE_STAGE, SUSPECT_SILENCE_S, WorkerFollower
from actors.dispatcher.restart_pauses import HOPELESS_DEATHS, RestartPauses
from actors.dispatcher.slots import Slot, Slots
from actors.errors import ModelError
from actors.messages import Listening, StepReport, WorkerReady
from actors.model_files.fingerprint import Fingerprint, ModelCopy
from actors.scheduling.events import (
    Event,
    Reported,
    WorkerDown,
    WorkerExpected,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)
from tests.scheduling.pool import LIMITS

WAIT_S = 20.0


class Call:
    """A method of an actor, that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class FakeWorker:
    """The handle of a worker. Streams of its reports read what its present life says."""

    def __init__(self) -> None:
        self.reports = self
        self.end, self.close = Call(), Call()
        self.pauses: list[float] = []
        self.node, self.gpus = "10.0.0.1", ("2", "3")
        self._lives = 0
        self.begin()

    def begin(self) -> str:
        """A new life."""
        self._lives += 1
        self.worker_id = f"slot#{self._lives}"
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        return self.worker_id

    def say(self, *news: Any) -> None:
        for each in news:
            self._said.put_nowait(each)

    def die(self) -> None:
        """Its stream breaks, and another life answers."""
        said = self._said
        self.begin()
        said.put_nowait(OSError("it died"))

    def ready(self) -> None:
        self.say(WorkerReady(worker_id=self.worker_id, limits=LIMITS, resident_pages=frozenset(), sequence=1))

    async def read(self, pause_s: float) -> AsyncIterator[Awaitable[Any]]:
        self.pauses.append(pause_s)
        said = self._said
        news: Any = Listening(self.worker_id, node=self.node, gpus=self.gpus)
        while True:
            if isinstance(news, Exception):
                raise news
            reference = asyncio.get_running_loop().create_future()
            reference.set_result(news)
            yield reference
            news = await said.get()


class Rig:
    def __init__(self) -> None:
        self.worker = FakeWorker()
        self.slots = Slots()
        self.slot = self.slots.add("slot")
        self.slot.handle = self.worker
        self.events: list[Event] = []
        self.probed: list[str] = []
        self.follower = WorkerFollower(
            self.slot,
            self.slots,
            handle_event=self.events.append,
            probe=lambda slot, worker_id: self.probed.append(worker_id),
            pauses=RestartPauses(60.0),
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0)

    async def up(self) -> WorkerUp:
        """Its present life can generate."""
        self.worker.ready()
        await self.until(lambda: self.of(WorkerUp) and self.slot.worker_id == self.worker.worker_id)
        up: WorkerUp = self.of(WorkerUp)[-1]
        return up

    async def heard(self) -> None:
        await self.until(lambda: self.slot.life == self.worker.worker_id)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The handles that were killed."""
    handles: list[Any] = []
    monkeypatch.setattr(ray, "kill", lambda handle, *, no_restart: handles.append(handle))
    return handles


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(following, "RECONNECT_INTERVAL_S", 0.0)
    monkeypatch.setattr(following, "open_stream", lambda worker, pause_s: worker.read(pause_s))
    monkeypatch.setattr(following, "cancel_stream", lambda stream: None)
    made = Rig()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.follower.follow())
        yield made
        task.cancel()


async def test_where_a_worker_runs_is_known_before_it_is_loaded_and_changes_with_its_life(rig: Rig) -> None:
    await rig.heard()
    state = rig.slot.state(0)
    assert (state.state, state.node, state.gpus) == ("starting", "10.0.0.1", ("2", "3"))
    rig.worker.node, rig.worker.gpus = "10.0.0.2", ("0", "1")
    rig.worker.die()
    await rig.heard()
    state = rig.slot.state(0)
    assert (state.node, state.gpus) == ("10.0.0.2", ("0", "1"))


async def test_a_worker_that_dies_again_waits_ever_longer_and_comes_up_on_trial(rig: Rig) -> None:
    trials = []
    for _ in range(4):
        trials.append((await rig.up()).trial)
        rig.worker.die()
        await rig.heard()
    assert rig.worker.pauses == [0.0, 0.0, 1.0, 2.0, 4.0]
    assert trials == [False, False, True, True]
    assert rig.slot.state(0).loading == (PAUSE_STAGE, 0, 4)
    assert rig.slot.restarts == 4


async def test_a_link_that_breaks_under_a_worker_that_lives_costs_no_pause(rig: Rig) -> None:
    for number in range(4):
        await rig.up()
        rig.worker.say(OSError("the link broke"))
        await rig.until(lambda number=number: len(rig.worker.pauses) == number + 2)  # type: ignore[misc]
    rig.worker.die()
    await rig.heard()
    assert len(rig.of(WorkerUp)) == 1
    assert not (await rig.up()).trial


async def test_a_worker_that_never_comes_up_is_lost_in_the_end(rig: Rig) -> None:
    for number in range(HOPELESS_DEATHS):
        await rig.heard()
        assert rig.slot.failure is None, f"given up after {number} deaths"
        rig.worker.die()
    await rig.until(lambda: rig.of(WorkerLost))
    assert "again and again" in str(rig.slot.failure)
    assert rig.worker.close.calls == [()], "its engine is not started any more"


async def test_a_worker_that_cannot_be_loaded_the_first_time_is_lost(rig: Rig, killed: list[Any]) -> None:
    rig.worker.say(ModelError("no weights"))
    await rig.until(lambda: rig.of(WorkerLost))
    assert (killed, rig.worker.pauses) == ([], [0.0])


async def test_a_worker_that_was_up_and_cannot_be_loaded_again_begins_anew(rig: Rig, killed: list[Any]) -> None:
    await rig.up()
    rig.worker.die()
    await rig.heard()
    rig.worker.say(ModelError("no memory is left"))
    await rig.until(lambda: killed)
    assert killed == [rig.worker]
    rig.worker.begin()
    assert (await rig.up()).trial
    assert rig.of(WorkerLost) == []


def copied(node: str, digest: str) -> ModelCopy:
    return ModelCopy(path="/m", node=node, fingerprint=Fingerprint((("config.json", digest),)))


async def test_a_worker_with_another_copy_of_the_model_is_lost_and_ended(rig: Rig, killed: list[Any]) -> None:
    other = rig.slots.add("other")
    other.copy = copied("a", "1")
    rig.worker.say(copied("b", "1"))
    await rig.until(lambda: rig.slot.copy)
    await rig.up()
    rig.worker.die()
    await rig.heard()
    assert rig.slot.copy is None, "that life is over, and nobody is measured by it"
    rig.worker.say(copied("b", "2"))
    await rig.until(lambda: rig.of(WorkerLost))
    assert killed == [rig.worker]
    assert isinstance(rig.slot.failure, ModelError)
    assert "on node b differs from that on node a: file config.json" in str(rig.slot.failure)


async def test_a_copy_is_compared_with_those_of_the_same_settings_that_are_there(rig: Rig, killed: list[Any]) -> None:
    rig.slots.add("of other settings", generation=1).copy = copied("a", "1")
    lost = rig.slots.add("lost")
    lost.copy, lost.failure = copied("a", "2"), ModelError("it was refused")
    rig.slots.add("has not told yet")
    rig.worker.say(copied("b", "3"))
    await rig.up()
    assert rig.slot.copy == copied("b", "3")
    rig.worker.say(copied("b", "3"))
    await rig.up()
    assert killed == []


async def test_a_worker_that_says_nothing_is_suspected_once_for_each_silence(rig: Rig) -> None:
    await rig.up()
    for _ in range(2):
        rig.follower.tick(SUSPECT_SILENCE_S - 1.0)
        rig.worker.say(Listening(rig.worker.worker_id))
        await asyncio.sleep(0.01)
    assert rig.of(WorkerSuspected) == []
    for _ in range(3):
        rig.follower.tick(SUSPECT_SILENCE_S - 1.0)
    assert rig.of(WorkerSuspected) == [WorkerSuspected("slot#1")]
    rig.worker.say(report := StepReport(worker_id="slot#1", sequence=2))
    await rig.until(lambda: rig.of(Reported) == [Reported(report)])
    rig.follower.tick(SUSPECT_SILENCE_S)
    assert len(rig.of(WorkerSuspected)) == 2
    assert rig.probed == []


async def test_a_worker_that_falls_silent_while_it_loads_is_probed_much_later(rig: Rig) -> None:
    await rig.heard()
    rig.follower.tick(LOADING_SILENCE_S - 1.0)
    assert rig.probed == []
    for _ in range(2):
        rig.follower.tick(LOADING_SILENCE_S)
    assert rig.probed == ["slot#1", "slot#1"]
    assert rig.of(WorkerSuspected) == []


async def test_a_life_that_was_ended_gets_no_word_in_any_more(rig: Rig) -> None:
    """It was stopped for longer than anybody waited, and goes on: what it reports is of attempts that are over."""
    await rig.up()
    await rig.follower.give_up("slot#0", "of another life")
    assert rig.of(WorkerDown) == []
    await rig.follower.give_up("slot#1", "it did not answer")
    assert rig.events[-2:] == [WorkerDown("slot#1", "it did not answer"), WorkerExpected("slot")]
    told = len(rig.events)
    rig.worker.say(StepReport(worker_id="slot#1", sequence=2))
    await rig.until(lambda: len(rig.worker.end.calls) > 2)
    rig.worker.ready()
    assert {worker_id for worker_id, _ in rig.worker.end.calls} == {"slot#1"}
    assert len(rig.events) == told, "it came up again"
    assert rig.slot.worker_id is None
    rig.worker.die()
    assert (await rig.up()).worker_id == "slot#2"


def test_a_slot_that_was_never_heard_of_is_silent_without_blame() -> None:
    rig = Rig()
    rig.follower.tick(10 * LOADING_SILENCE_S)
    assert (rig.events, rig.probed) == ([], [])
    assert isinstance(rig.slot, Slot)
