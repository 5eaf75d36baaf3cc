"""A served model: while its pool is opened, when it cannot be, and when it comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OwnerDiedError,
    RayError,
    TaskCancelledError,
)

from actors.builtin_model import builtin_model_path
from actors.errors import ModelError, NoHealthyWorker, PoolClosed
from actors.front.front import Front
from actors.request.prompt import PromptEncoder
from serve_app.api.app import create_api
from serve_app.errors import ModelNotFound
from serve_app.metrics.keys_file import KeysFileState
from serve_app.models import served
from serve_app.models.readiness import ALL_STATES, Readiness
from serve_app.models.served import Models, ServedModel

DEADLINE_S = 5.0


class OpenFront:
    """As much of a front as a served model needs."""

    encoder = PromptEncoder.load(builtin_model_path())

    def __init__(self) -> None:
        self.reachable = True

    def shut_down(self) -> None:
        self.reachable = False

    async def close(self) -> None:
        self.shut_down()


UP = SimpleNamespace(worker_id="worker-0#1")
DOWN = SimpleNamespace(worker_id=None)


class Dispatcher:
    """Answers `progress` with what the test puts, and `hello` with an error."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: list[int] = []
        self._failure = failure
        self.progress = SimpleNamespace(remote=self._progress)
        self.hello = SimpleNamespace(remote=self._hello)

    async def _progress(self, known: int) -> Any:
        self.asked.append(known)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _hello(self) -> Any:
        if self._failure is None:
            await asyncio.Event().wait()
        raise self._failure or AssertionError


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def following(dispatcher: Dispatcher) -> AsyncGenerator[Readiness, None]:
    readiness = Readiness(dispatcher)
    readiness.start()
    try:
        yield readiness
    finally:
        await readiness.close()
    assert not readiness.ready


async def test_a_pool_is_ready_while_some_worker_is_up() -> None:
    dispatcher = Dispatcher()
    async with following(dispatcher) as readiness:
        assert not readiness.ready
        for version, states, ready in [(1, (DOWN, DOWN), False), (2, (DOWN, UP), True), (3, (DOWN, DOWN), False)]:
            dispatcher.answers.put_nowait((version, states))
            await until(lambda version=version: dispatcher.asked[-1:] == [version])  # type: ignore[misc]
            assert readiness.ready is ready
    assert dispatcher.asked == [ALL_STATES, 1, 2, 3]


async def test_a_dispatcher_that_restarts_is_asked_from_the_beginning() -> None:
    dispatcher = Dispatcher()
    async with following(dispatcher) as readiness:
        dispatcher.answers.put_nowait((7, (UP,)))
        await until(lambda: readiness.ready)
        dispatcher.answers.put_nowait(ActorUnavailableError("away", None))
        await until(lambda: not readiness.ready)
        dispatcher.answers.put_nowait((1, (UP,)))
        await until(lambda: readiness.ready)
    assert dispatcher.asked == [ALL_STATES, 7, ALL_STATES, 1]


@pytest.mark.parametrize(
    "failure",
    [
        ObjectLostError("ref", None, ""),
        OwnerDiedError("00" * 28, None, ""),
        TaskCancelledError(),
        RayError("broken"),
        ZeroDivisionError("a bug"),
        (1, "not states"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_whatever_ends_the_watch_means_not_ready_and_it_begins_again(failure: Any) -> None:
    dispatcher = Dispatcher()
    async with following(dispatcher) as readiness:
        dispatcher.answers.put_nowait((1, (UP,)))
        await until(lambda: readiness.ready)
        dispatcher.answers.put_nowait(failure)
        await until(lambda: not readiness.ready)
        dispatcher.answers.put_nowait((2, (UP,)))
        await until(lambda: readiness.ready)
    assert dispatcher.asked == [ALL_STATES, 1, ALL_STATES, 2]


async def test_a_dispatcher_that_is_gone_is_asked_no_more() -> None:
    dispatcher = Dispatcher()
    async with following(dispatcher) as readiness:
        dispatcher.answers.put_nowait((1, (UP,)))
        await until(lambda: readiness.ready)
        dispatcher.answers.put_nowait(ActorDiedError())
        await until(lambda: not readiness.ready)
    assert dispatcher.asked == [ALL_STATES, 1]


@pytest.mark.parametrize("failure", [ModelError("No weights."), ZeroDivisionError("bug")])
async def test_a_model_that_cannot_be_opened_says_why(failure: Exception) -> None:
    model = ServedModel("m", Dispatcher(failure), created=1)
    model.start()

    def failed() -> bool:
        with pytest.raises(NoHealthyWorker) as caught:
            _ = model.front
        return str(failure) in caught.value.message and caught.value.retry_after_s is None

    await until(failed)
    assert not model.ready
    assert model.max_tokens is None
    await model.close()


async def test_a_model_is_opened_again_when_what_kept_it_shut_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    failures: list[Exception] = [ObjectLostError("ref", None, ""), PoolClosed("The dispatcher did not come back.")]

    async def open_front(_: Any, *, patient: bool) -> Any:
        opened.append("try")
        if failures:
            raise failures.pop()
        return OpenFront()

    monkeypatch.setattr(Front, "open", open_front)
    monkeypatch.setattr(served, "OPENING_RETRY_S", 0.01)
    dispatcher = Dispatcher()
    model = ServedModel("m", dispatcher, created=1)
    model.start()
    await until(lambda: len(opened) == 3)
    dispatcher.answers.put_nowait((1, (UP,)))
    await until(lambda: model.ready)
    assert isinstance(model.front, OpenFront)
    await model.close()
    assert not model.ready


async def test_a_front_whose_text_cannot_be_made_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    front = OpenFront()

    async def open_front(_: Any, *, patient: bool) -> Any:
        return front

    def broken(_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Front, "open", open_front)
    monkeypatch.setattr(served, "ModelText", broken)
    model = ServedModel("m", Dispatcher(), created=1)
    model.start()
    await until(lambda: "failed" in repr(model))
    assert not front.reachable
    with pytest.raises(NoHealthyWorker, match="a bug"):
        _ = model.front
    await model.close()


async def test_a_front_that_is_cut_off_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool can generate, but not for this process."""
    front = OpenFront()

    async def open_front(_: Any, *, patient: bool) -> Any:
        return front

    monkeypatch.setattr(Front, "open", open_front)
    dispatcher = Dispatcher()
    models = Models([ServedModel("m", dispatcher, created=1)])
    models.start()
    dispatcher.answers.put_nowait((1, (UP,)))
    await until(lambda: models.first.ready)
    transport = httpx.ASGITransport(create_api(models))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.get("/ready")).status_code == 200
        front.reachable = False
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_worker")
        assert (await http.get("/health")).json() == {"status": "ok", "models": {"m": False}}
        front.reachable = True
        assert (await http.get("/ready")).status_code == 200
    await models.close()


async def test_who_asks_whether_it_is_ready_hears_of_the_keys_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken one takes nobody away: every key that was known is served."""

    async def open_front(_: Any, *, patient: bool) -> Any:
        return OpenFront()

    monkeypatch.setattr(Front, "open", open_front)
    dispatcher = Dispatcher()
    models = Models([ServedModel("m", dispatcher, created=1)])
    models.start()
    dispatcher.answers.put_nowait((1, (UP,)))
    await until(lambda: models.first.ready)
    state: KeysFileState = "current"
    transport = httpx.ASGITransport(create_api(models, keys_file=lambda: state))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        for state in ("current", "empty", "broken"):
            answer = await http.get("/ready")
            assert answer.status_code == 200
            assert answer.json() == {"status": "ready", "models": {"m": True}, "keys_file": state}
    await models.close()


async def test_a_model_that_is_opened_says_when_to_come_back() -> None:
    model = ServedModel("m", Dispatcher(), created=1)
    model.start()
    with pytest.raises(NoHealthyWorker) as caught:
        _ = model.text
    assert caught.value.retry_after_s
    await model.close()


def test_names_are_found_and_told_apart() -> None:
    first, second = (ServedModel(name, None, created=1) for name in ("a", "b/c"))
    models = Models([first, second])
    assert list(models) == [first, second]
    assert models.first is first
    assert models.get("b/c") is second
    with pytest.raises(ModelNotFound) as caught:
        models.get("d")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    with pytest.raises(ValueError, match="a name of its own"):
        Models([first, first])
    with pytest.raises(ValueError, match="at least one"):
        Models([])
