"""A front's link to the dispatcher, against a scripted dispatcher on a real Ray actor: decisions find their places,
what is given up is given back, and a dispatcher that is lost is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError

from actors.errors import ExlpoolError, NoHealthyWorker, Overloaded, PoolClosed
from actors.front import dispatcher_link
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.dispatcher_link import DispatcherLink
from actors.front.place import MAX_BLAMED, Place
from actors.messages import Admission, Decision, Grant, Refusal, RefusalReason, Release, Revocation

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 30.0


class ScriptedDispatcher:
    """Decides by the beginning of a request's name: `grant…` at once, `full…` refuses, everything else waits for
    `tell`. Notes what it was told."""

    def __init__(self) -> None:
        self._told: list[Admission | Release] = []
        self._late: asyncio.Queue[tuple[Decision, ...]] = asyncio.Queue()
        self._streams = 0
        self._broken: set[int] = set()

    async def decisions(self, front_id: str) -> AsyncIterator[tuple[Decision, ...]]:
        self._streams += 1
        yield ()
        while True:
            yield await self._late.get()

    async def place_requests(self, front_id: str, messages: tuple[Admission | Release, ...]) -> tuple[Decision, ...]:
        self._told += messages
        answer: list[Decision] = []
        for message in messages:
            if isinstance(message, Admission) and message.request_id.startswith("grant"):
                answer.append(Grant(message.request_id, message.attempt, "slot#1"))
            elif isinstance(message, Admission) and message.request_id.startswith("full"):
                answer.append(Refusal(message.request_id, RefusalReason.QUEUE_FULL, "full", 0.5))
            elif isinstance(message, Admission) and message.request_id.startswith("raise"):
                raise ValueError("the dispatcher stumbles over this one")
        return tuple(answer)

    async def tell(self, *decisions: Decision) -> None:
        await self._late.put(decisions)

    async def told(self) -> list[tuple[str, str, int]]:
        return [(type(message).__name__, message.request_id, message.attempt) for message in self._told]

    async def admissions(self) -> list[Admission]:
        return [message for message in self._told if isinstance(message, Admission)]

    async def streams(self) -> int:
        return self._streams


class _Rig:
    def __init__(self) -> None:
        self.dispatcher: Any = ray.remote(ScriptedDispatcher).options(num_cpus=0, max_restarts=-1).remote()
        self.link = DispatcherLink("front-1", self.dispatcher)

    async def until_told(self, *expected: tuple[str, str, int]) -> None:
        while not set(expected) <= set(await self._told()):
            await asyncio.sleep(0.02)

    async def _told(self) -> list[tuple[str, str, int]]:
        """What the life that answers was told; nothing while none answers."""
        try:
            told: list[tuple[str, str, int]] = await self.dispatcher.told.remote()
        except ActorUnavailableError:
            return []
        return told

    async def until_listening(self) -> None:
        while not self.link.listening:
            await asyncio.sleep(0.02)


@pytest.fixture
async def rig() -> AsyncIterator[_Rig]:
    async with asyncio.timeout(2 * WAIT_S):
        made = _Rig()
        await made.until_listening()
        yield made
        made.link.shut_down()
        await made.link.wait_closed()
        ray.kill(made.dispatcher)


def admission(request_id: str, attempt: int = 1) -> Admission:
    return Admission(request_id=request_id, attempt=attempt, prompt_tokens=1, max_new_tokens=1)


async def decided(place: Place) -> Grant:
    async with asyncio.timeout(WAIT_S):
        return await place.granted()


async def test_a_grant_is_taken_and_given_back_unless_its_end_is_known(rig: _Rig) -> None:
    for name, over in (("grant-a", False), ("grant-b", True)):
        place = rig.link.ask(admission(name))
        assert await decided(place) == Grant(name, 1, "slot#1")
        if over:
            place.finish()
        place.release()
    last = rig.link.ask(admission("grant-c"))
    await decided(last)
    last.release()
    await rig.until_told(("Release", "grant-a", 1), ("Release", "grant-c", 1))
    assert ("Release", "grant-b", 1) not in await rig.dispatcher.told.remote()


async def test_a_refusal_is_raised_as_its_own_type_and_needs_no_release(rig: _Rig) -> None:
    place = rig.link.ask(admission("full"))
    with pytest.raises(Overloaded) as refusal:
        await decided(place)
    assert refusal.value.retry_after_s == 0.5
    place.release()
    again = rig.link.ask(admission("grant"))
    await decided(again)
    assert ("Release", "full", 1) not in await rig.dispatcher.told.remote()


async def test_an_error_of_the_dispatcher_fails_what_the_call_carried(rig: _Rig) -> None:
    place = rig.link.ask(admission("raise"))
    with pytest.raises(ExlpoolError, match="dispatcher failed"):
        await decided(place)
    place.release()
    await decided(rig.link.ask(admission("grant")))


async def test_a_wait_that_is_cancelled_gives_the_place_back_after_having_asked_for_it(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    waiting = asyncio.get_running_loop().create_task(place.granted())
    await rig.until_told(("Admission", "later", 1))
    waiting.cancel()
    await asyncio.wait([waiting])
    place.release()
    await rig.until_told(("Release", "later", 1))


async def test_a_grant_that_nobody_waits_for_is_released(rig: _Rig) -> None:
    await rig.dispatcher.tell.remote(Grant("unknown", 3, "slot#1"))
    await rig.until_told(("Release", "unknown", 3))
    place = rig.link.ask(admission("later", attempt=2))
    await rig.dispatcher.tell.remote(Grant("later", 1, "slot#1"))
    await rig.until_told(("Release", "later", 1))
    assert place.undecided
    await rig.dispatcher.tell.remote(Grant("later", 2, "slot#1"))
    assert (await decided(place)).attempt == 2
    await rig.dispatcher.tell.remote(Grant("later", 2, "slot#1"))  # told twice: the same grant
    await decided(rig.link.ask(admission("grant")))
    assert ("Release", "later", 2) not in await rig.dispatcher.told.remote()


async def test_a_revocation_ends_the_attempt_it_means_and_no_other(rig: _Rig) -> None:
    place = rig.link.ask(admission("grant-a", attempt=2))
    await decided(place)
    output = AttemptOutput("slot#1", whole=True)
    place.use(output)
    await rig.dispatcher.tell.remote(Revocation("grant-a", 1, "an older one"), Revocation("nobody", 1, "unknown"))
    await rig.dispatcher.tell.remote(Revocation("grant-a", 2, "its start was never confirmed"))
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AttemptLost, match="never confirmed"):
            await output.take()
    place.release()
    await decided(rig.link.ask(admission("grant-b")))
    assert ("Release", "grant-a", 2) not in await rig.dispatcher.told.remote()


async def test_a_place_that_is_taken_back_before_it_is_used_cannot_be_used(rig: _Rig) -> None:
    place = rig.link.ask(admission("grant-a"))
    await decided(place)
    await rig.dispatcher.tell.remote(Revocation("grant-a", 1, "taken back"))
    while not place.over:
        await asyncio.sleep(0.02)
    with pytest.raises(AttemptLost, match="taken back"):
        place.use(AttemptOutput("slot#1", whole=True))


async def test_a_broken_stream_is_opened_again_and_what_is_undecided_is_asked_again(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    await rig.until_told(("Admission", "later", 1))
    rig.link.break_stream()
    while (await rig.dispatcher.told.remote()).count(("Admission", "later", 1)) < 2:
        await asyncio.sleep(0.02)
    assert await rig.dispatcher.streams.remote() == 2
    await rig.dispatcher.tell.remote(Grant("later", 1, "slot#1"))  # an abandoned stream may swallow one of these
    await rig.dispatcher.tell.remote(Grant("later", 1, "slot#1"))
    assert (await decided(place)).worker_id == "slot#1"


async def test_a_dispatcher_that_dies_is_waited_for_and_asked_again(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    await rig.until_told(("Admission", "later", 1))
    ray.kill(rig.dispatcher, no_restart=False)
    await rig.until_told(("Admission", "later", 1))
    assert place.undecided
    assert (await decided(rig.link.ask(admission("grant")))).worker_id == "slot#1"


async def test_a_request_under_which_the_dispatcher_is_lost_again_and_again_fails(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    for times in range(1, MAX_BLAMED + 1):
        while place.asked < times:
            await asyncio.sleep(0.02)
        rig.link.break_stream()
    with pytest.raises(NoHealthyWorker, match=f"lost {MAX_BLAMED} times"):
        await decided(place)


async def test_a_request_that_has_waited_for_long_is_not_to_blame_for_any_number_of_losses(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.front.place.BLAME_S", 0.0)
    place = rig.link.ask(admission("later"))
    for times in range(1, MAX_BLAMED + 2):
        while place.asked < times:
            await asyncio.sleep(0.02)
        rig.link.break_stream()
    assert place.undecided


async def test_what_is_asked_again_says_how_long_it_has_waited_and_what_is_asked_late_how_old_it_is(rig: _Rig) -> None:
    asked_at_s = time.monotonic()
    early = rig.link.ask(replace(admission("early"), timeout_s=9.0))
    await rig.until_told(("Admission", "early", 1))
    rig.link.break_stream()
    while rig.link.listening:
        await asyncio.sleep(0)
    late = rig.link.ask(replace(admission("late"), timeout_s=9.0))
    await rig.until_told(("Admission", "late", 1))
    first, again, only = await rig.dispatcher.admissions.remote()
    passed_s = time.monotonic() - asked_at_s
    assert (first.age_s, first.waited_s) == (0.0, 0.0)
    assert 0.0 < again.waited_s == again.age_s < passed_s
    assert again == first
    assert again.timeout_s == 9.0, "it counts from the first asking, as the wait does"
    assert only.waited_s == 0.0 < only.age_s < again.age_s
    assert only.timeout_s == pytest.approx(9.0 - only.age_s)
    early.release()
    late.release()


async def test_a_silent_dispatcher_is_taken_for_lost(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_link, "SILENCE_S", 0.5)
    rig.link.break_stream()  # so that the new bound holds
    while await rig.dispatcher.streams.remote() < 4:
        await asyncio.sleep(0.05)


async def test_a_dispatcher_that_cannot_be_reached_for_long_fails_what_waits_and_what_comes(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = rig.link.ask(admission("later"))
    monkeypatch.setattr(dispatcher_link, "UNREACHABLE_AFTER_S", 0.0)
    rig.link.break_stream()
    with pytest.raises(NoHealthyWorker, match="has not answered"):
        await decided(place)
    await rig.until_listening()
    await decided(rig.link.ask(admission("grant")))


async def test_a_dispatcher_that_is_gone_for_good_fails_everything(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    ray.kill(rig.dispatcher)
    with pytest.raises(PoolClosed):
        await decided(place)
    with pytest.raises(PoolClosed):
        rig.link.ask(admission("another"))


async def test_shutting_down_fails_what_is_undecided(rig: _Rig) -> None:
    place = rig.link.ask(admission("later"))
    rig.link.shut_down()
    with pytest.raises(PoolClosed):
        await decided(place)
    place.release()
