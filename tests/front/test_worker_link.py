"""A front's link to a worker, on a real Ray actor: order, what is given up, what breaks it, and what it comes back
from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray

from actors.config import EngineConfig
from actors.engines.simulated import expected_tokens
from actors.front import worker_link
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.worker_link import WorkerLink
from actors.messages import GenerationRequest, Listening, StepOutput, WorkerReady
from actors.ray_session import cancel_stream, open_stream
from actors.results import FinishReason
from actors.sampling import sampling_params
from actors.worker.worker import Worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 30.0
STEP_S = 0.01
LONG_TOKENS = 6000
"""A completion that would keep the worker stepping for a minute."""
CONFIG = EngineConfig(engine="simulated", cache_tokens=262_144, simulated={"step_s": STEP_S, "context_tokens": 131_072})


class _Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self) -> Any:
        return _refuse_to_be_read, ()


def _refuse_to_be_read() -> None:
    raise AttributeError("this message cannot be unpickled here")


class FaultyWorker(Worker):
    """A worker whose first streams go wrong in the ways of `faults`, one after the other."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("slot", CONFIG)
        self._faults = list(faults)

    async def outputs(self, stream_id: str) -> AsyncIterator[Listening | StepOutput]:
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "raises":
            raise ValueError("something in the worker went wrong")
        if fault == "silent":
            await asyncio.sleep(10 * WAIT_S)
        if fault == "unreadable":
            yield _Unreadable()  # type: ignore[misc]
        if fault == "ends":
            yield Listening(self._worker_id)
            return
        if fault == "breaks off":
            yield Listening(self._worker_id)
            raise ValueError("something in the worker went wrong later")
        async for output in super().outputs(stream_id):
            yield output


class _Links:
    """A worker actor, and links to it that are closed with the test."""

    def __init__(self, *faults: str) -> None:
        self.worker: Any = ray.remote(FaultyWorker).options(num_cpus=0).remote(faults)
        self.worker_id = ""
        self._links: list[WorkerLink] = []

    async def ready(self) -> None:
        stream = open_stream(self.worker.reports)
        try:
            async for reference in stream:
                news = await reference
                if isinstance(news, WorkerReady):
                    self.worker_id = news.worker_id
                    return
        finally:
            cancel_stream(stream)

    def open(self, worker_id: str | None = None) -> WorkerLink:
        self._links.append(WorkerLink("front", worker_id or self.worker_id, self.worker))
        return self._links[-1]

    async def idle(self) -> bool:
        """Whether the engine takes no steps, by what it did in the time of ten."""
        before = await self.worker.heartbeat.remote()
        await asyncio.sleep(10 * STEP_S)
        after = await self.worker.heartbeat.remote()
        return bool(after.steps == before.steps and after.turn_age_s == 0.0)

    async def until_idle(self) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not await self.idle():
            assert time.monotonic() < deadline_s, "the worker runs what was given up"

    async def close(self) -> None:
        for link in self._links:
            link.shut_down()
            await link.wait_closed()


@pytest.fixture
async def links() -> AsyncIterator[_Links]:
    async with asyncio.timeout(3 * WAIT_S):
        made = _Links()
        await made.ready()
        yield made
        await made.close()
        ray.kill(made.worker)


@pytest.fixture
def faulty() -> Iterator[Any]:
    made: list[_Links] = []

    async def make(*faults: str) -> _Links:
        made.append(_Links(*faults))
        await made[-1].ready()
        return made[-1]

    yield make
    for one in made:
        ray.kill(one.worker)


def request(ticket: int, tokens: int = 5, prompt: tuple[int, ...] = (10, 11, 12)) -> GenerationRequest:
    return GenerationRequest(
        ticket=ticket,
        request_id=f"request-{ticket}",
        attempt=1,
        token_ids=(*prompt, 20 + ticket),
        max_new_tokens=tokens,
        seed=0,
        params=sampling_params(temperature=0.0),
    )


async def whole(link: WorkerLink, asked: GenerationRequest) -> tuple[int, ...]:
    """Run a request over the link to its end."""
    output = AttemptOutput(link.worker_id, whole=True)
    async with asyncio.timeout(WAIT_S):
        await link.start(replace(asked, whole=True), output)
        _, token_ids, _, finished = await output.take()
    assert finished is not None
    assert finished.reason is FinishReason.LENGTH
    return token_ids


async def until_lost(output: AttemptOutput) -> None:
    while True:
        await output.take()


async def test_a_request_that_is_given_up_before_it_was_sent_never_runs(links: _Links) -> None:
    link = links.open()
    kept = AttemptOutput(links.worker_id, whole=True)
    await link.start(replace(request(1), whole=True), kept)
    await asyncio.sleep(0)  # the call that carries the first one goes out
    await link.start(request(2, LONG_TOKENS), AttemptOutput(links.worker_id, whole=True))
    link.cancel(2)
    async with asyncio.timeout(WAIT_S):
        text, *_, finished = await kept.take()
    assert text
    assert finished is not None
    await links.until_idle()


async def test_a_cancellation_never_overtakes_a_large_submission(links: _Links) -> None:
    """Ray delivers two calls that are under way at once in any order when one carries so much."""
    link = links.open()
    long_prompt = tuple(index % 2000 for index in range(60_000))
    for ticket in range(20):
        output = AttemptOutput(links.worker_id, whole=True)
        await link.start(replace(request(ticket, LONG_TOKENS, long_prompt), whole=True), output)
        while len(link._commands):  # until its call is on its way
            await asyncio.sleep(0)
        link.cancel(ticket)
    assert await whole(link, request(99)) == expected_tokens(request(99).token_ids, 5)
    await links.until_idle()


async def test_output_that_nobody_waits_for_cancels_its_job(links: _Links) -> None:
    link = links.open()
    await whole(link, request(1))
    assert await links.worker.take_commands.remote(link._stream_id, (request(77, LONG_TOKENS),))
    await links.until_idle()
    assert await whole(link, request(2)) == expected_tokens(request(2).token_ids, 5)


async def test_a_link_that_breaks_tells_its_attempts_and_is_opened_again(links: _Links) -> None:
    link = links.open()
    for ticket in (1, 2):
        output = AttemptOutput(links.worker_id, whole=False)
        await link.start(request(ticket, LONG_TOKENS), output)
        async with asyncio.timeout(WAIT_S):
            await output.take()
            link.break_stream()
            with pytest.raises(AttemptLost, match="broke"):
                await until_lost(output)
        assert link.broken
        tokens = await whole(link, request(10 + ticket))
        assert tokens == expected_tokens(request(10 + ticket).token_ids, 5)
        assert link.open
    await links.until_idle()


async def test_an_attempt_that_waits_for_a_link_which_opens_and_breaks_at_once_waits_on(links: _Links) -> None:
    """Or it would be registered with a link that is not open: never sent, and told of nothing."""
    link = links.open()
    output = AttemptOutput(links.worker_id, whole=True)
    starting = asyncio.get_running_loop().create_task(link.start(replace(request(1), whole=True), output))
    await asyncio.sleep(0)
    link._opened()
    link._break(ConnectionError("it broke before anybody could use it"))
    async with asyncio.timeout(WAIT_S):
        await starting
        *_, finished = await output.take()
    assert finished is not None


async def test_an_attempt_whose_place_is_taken_back_does_not_wait_for_a_link_that_opens(faulty: Any) -> None:
    links = await faulty("silent")
    output = AttemptOutput(links.worker_id, whole=True)
    starting = asyncio.get_running_loop().create_task(links.open().start(request(1), output))
    await asyncio.sleep(0)
    output.lose("its node has died", moved=True)
    async with asyncio.timeout(WAIT_S / 2):  # less than the link has for its opening
        with pytest.raises(AttemptLost, match="node has died") as lost:
            await starting
    assert lost.value.moved
    await links.close()


async def test_an_attempt_waits_only_a_moment_for_a_link_that_is_broken(faulty: Any) -> None:
    """Its worker may be gone with its node, and nobody who knows is to be waited for."""
    links = await faulty("ends", "silent")
    link = links.open()
    deadline_s = time.monotonic() + WAIT_S
    while not link.broken:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S / 2):
        with pytest.raises(AttemptLost, match="broke"):
            await link.start(request(1), AttemptOutput(links.worker_id, whole=True))
    await links.close()


@pytest.mark.parametrize("fault", ["raises", "unreadable", "silent", "breaks off", "ends"])
async def test_a_stream_that_fails_in_any_way_is_opened_again(
    fault: str, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "silent":
        monkeypatch.setattr(worker_link, "OPEN_TIMEOUT_S", 1.0)
    links = await faulty(fault, fault)
    link = links.open()
    if fault == "silent":
        with pytest.raises(AttemptLost, match="did not answer"):
            await link.start(request(1), AttemptOutput(links.worker_id, whole=True))
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            assert await whole(link, request(2)) == expected_tokens(request(2).token_ids, 5)
            break
        except AttemptLost:  # the attempt was told, so it can be made again
            assert time.monotonic() < deadline_s
    assert not link.over
    await links.close()


async def test_a_call_that_fails_breaks_the_link_and_it_is_opened_again(links: _Links) -> None:
    link = links.open()
    await whole(link, request(1))
    output = AttemptOutput(links.worker_id, whole=True)
    unsendable = replace(request(2), params=lambda: None)  # type: ignore[arg-type]
    await link.start(replace(unsendable, request_id=_Unreadable()), output)  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AttemptLost):
            await output.take()
    assert await whole(link, request(3)) == expected_tokens(request(3).token_ids, 5)


async def test_a_link_to_another_life_is_over_and_says_so(links: _Links) -> None:
    link = links.open("slot#formerlife")
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AttemptLost, match="was restarted"):
            await link.start(request(1), AttemptOutput("slot#formerlife", whole=True))
    assert link.over
    assert await whole(links.open(), request(2)) == expected_tokens(request(2).token_ids, 5)


async def test_the_death_of_the_worker_ends_the_link_and_its_attempts(links: _Links) -> None:
    link = links.open()
    output = AttemptOutput(links.worker_id, whole=True)
    await link.start(request(1, LONG_TOKENS), output)
    ray.kill(links.worker)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AttemptLost):
            await output.take()
        with pytest.raises(AttemptLost):
            await link.start(request(2), AttemptOutput(links.worker_id, whole=True))
    assert link.over


async def test_a_link_to_an_earlier_life_leaves_that_to_the_present_one_alone(links: _Links) -> None:
    """A grant for a life that has ended may come after one for the next, and a link to it that broke looks for it in
    the process of the next."""
    present = links.open()
    await whole(present, request(1))
    earlier = links.open("slot#earlier")
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AttemptLost):
            await earlier.start(request(2), AttemptOutput("slot#earlier", whole=True))
    assert earlier.over
    await whole(present, request(3))
    assert present.open


async def take_all(output: AttemptOutput) -> None:
    """Also the pieces that have come before it is lost."""
    while True:
        await output.take()


async def test_shutting_down_tells_attempts_and_cancels_them_at_the_worker(links: _Links) -> None:
    link = links.open()
    output = AttemptOutput(links.worker_id, whole=True)
    await link.start(replace(request(1, LONG_TOKENS), whole=True), output)
    await whole(link, request(2))
    link.shut_down()
    with pytest.raises(AttemptLost, match="closed"):
        await take_all(output)
    await link.wait_closed()
    await links.until_idle()
    assert (await links.worker.debug_state.remote())["streams"] == 0
