"""A front whose worker dies or goes out of reach, and what callers are told of that. Without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from actors import ray_session
from actors.errors import ExlpoolError, PoolClosed, WorkerDied
from actors.front import run
from actors.front.front import Front
from actors.request.options import request_options
from tests.front.actors import FakeDispatcher, FakeWorker

WAIT_S = 20.0
OPTIONS = request_options(max_new_tokens=2)
RAY_WORDS = "is unavailable: The actor is temporarily unavailable: RpcError: RPC error: Socket closed rpc_code: 14"


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams here are none of Ray's, which another test may have started in this process."""
    monkeypatch.setattr(ray_session, "cancel_stream", lambda _: None)


@asynccontextmanager
async def front_of(dispatcher: FakeDispatcher) -> AsyncIterator[Front]:
    async with asyncio.timeout(WAIT_S):
        front = await Front.open(dispatcher, patient=False)
        try:
            yield front
        finally:
            await front.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_worker_that_is_gone_before_it_is_asked_costs_no_request(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher is the last to hear that the only worker was restarted, and sends the request there meanwhile."""
    monkeypatch.setattr(run, "UNSENT_PAUSE_S", 0.0)
    dispatcher = FakeDispatcher(FakeWorker("slot#2"), ["slot#1"] * 4 + ["slot#2"])
    async with front_of(dispatcher) as front:
        if whole:
            result = await front.generate((5, 6), OPTIONS)
            assert (result.text, result.attempts) == ("a", 5)
        else:
            assert [delta.text async for delta in front.stream((5, 6), OPTIONS)] == ["a"]
    assert [admission.excluded_workers for admission in dispatcher.admissions] == [frozenset(), *[{"slot#1"}] * 4]


@pytest.mark.parametrize("failure", [ActorUnavailableError(RAY_WORDS, None), RayError(RAY_WORDS)])
async def test_no_caller_reads_what_ray_says_of_a_death(failure: Exception) -> None:
    worker = FakeWorker("slot#1")
    worker.failure = failure
    async with front_of(FakeDispatcher(worker, ["slot#1"])) as front:
        for call in (_read(front), front.generate((5, 6), OPTIONS)):
            with pytest.raises(WorkerDied) as caught:
                await call
            assert not any(word in caught.value.message for word in ("Rpc", "rpc", "actor", "RayError"))


async def _read(front: Front) -> None:
    async for _ in front.stream((5, 6), OPTIONS):
        pass


async def test_a_fault_of_the_dispatcher_is_told_without_its_traceback() -> None:
    dispatcher = FakeDispatcher(FakeWorker("slot#1"), ["slot#1"])

    async def stumble(*_: object) -> None:
        raise RayTaskError(  # type: ignore[no-untyped-call]
            "place_requests", "Traceback: ray::Dispatcher.place_requests()", ValueError("secret")
        )

    dispatcher.place_requests._function = stumble
    async with front_of(dispatcher) as front:
        with pytest.raises(ExlpoolError, match="dispatcher failed") as caught:
            await front.generate((5, 6), OPTIONS)
        assert "ray::" not in caught.value.message


async def test_nothing_is_called_any_more_once_the_connection_to_ray_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Ray would join another cluster to make the call."""
    worker = FakeWorker("slot#1")
    dispatcher = FakeDispatcher(worker, ["slot#1"])
    methods = [dispatcher.decisions, dispatcher.place_requests, worker.outputs, worker.take_commands]
    async with front_of(dispatcher) as front:
        await front.generate((5, 6), OPTIONS)
        before = [method.calls for method in methods]
        monkeypatch.setattr(ray_session, "_session_id", lambda: ("another cluster", "this process"))
        front._places.break_stream()
        for link in front._links.values():
            link.break_stream()
        for call in (_read(front), front.generate((5, 6), OPTIONS)):
            with pytest.raises(PoolClosed, match=r"ray\.shutdown"):
                await call
    assert [method.calls for method in methods] == before
    assert not front.reachable
