"""A front whose worker dies or goes out of reach, and what callers are told of that. Without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from actors import ray_session
from actors.errors import EngineFailure, ExlpoolError, PoolClosed, WorkerDied
from actors.front import run
from actors.front.front import Front
from actors.messages import Refusal, RefusalReason
from actors.request.options import request_options
from actors.results import Usage
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


@pytest.mark.parametrize("fault", ["failure", "engine_error"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_completion_goes_on_elsewhere_behind_what_had_come(fault: str, whole: bool) -> None:
    worker = FakeWorker("slot#1")
    setattr(worker, fault, EngineFailure("broken") if fault == "engine_error" else ActorUnavailableError("gone", None))
    worker.failures = 1
    async with front_of(FakeDispatcher(worker, ["slot#1"])) as front:
        if whole:
            result = await front.generate((5, 6), OPTIONS)
            usage: Usage | None = result.usage
            text, token_ids = result.text, result.token_ids
            assert result.attempts == 2
        else:
            deltas = [delta async for delta in front.stream((5, 6), OPTIONS)]
            text, token_ids = "".join(d.text for d in deltas), tuple(i for d in deltas for i in d.token_ids)
            usage = deltas[-1].usage
            assert [delta.usage is None for delta in deltas] == [True, False]
    assert (text, token_ids) == ("ab", (5, 6))
    assert usage == Usage(prompt_tokens=2, completion_tokens=2)
    first, second = worker.requests
    assert (first.token_ids, first.max_new_tokens, first.resumed_tokens) == ((5, 6), 2, 0)
    assert (second.token_ids, second.max_new_tokens, second.resumed_tokens) == ((5, 6, 5), 1, 1)


async def test_what_has_begun_is_not_turned_away_because_the_pool_is_full() -> None:
    worker = FakeWorker("slot#1")
    worker.failure, worker.failures = ActorUnavailableError("gone", None), 1
    dispatcher = FakeDispatcher(worker, ["slot#1"])
    dispatcher.refusals = [Refusal("", RefusalReason.QUEUE_FULL, "full", 0.01)] * 2
    async with front_of(dispatcher) as front:
        assert [delta.text async for delta in front.stream((5, 6), OPTIONS)] == ["a", "b"]


async def test_two_failures_in_a_row_are_the_requests_own() -> None:
    worker = FakeWorker("slot#1")
    worker.engine_error = EngineFailure("broken")
    async with front_of(FakeDispatcher(worker, ["slot#1"])) as front:
        with pytest.raises(EngineFailure, match="broken"):
            await front.generate((5, 6), request_options(max_new_tokens=9))
    assert [request.attempt for request in worker.requests] == [1, 2]


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
