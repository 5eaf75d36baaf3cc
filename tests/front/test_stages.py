"""Whoever gives a request up, or whose time is over, gets out of it at every stage, and nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors import ray_session
from actors.errors import DeadlineExceeded
from actors.front import dispatcher_link, front
from actors.front.front import Front
from actors.request.options import RequestOptions, request_options
from actors.request.prompt import PromptEncoder
from tests.front.stages import Stage, StagedDispatcher

WAIT_S = 30.0
TIME_LIMIT_S = 1.5
PROMPT = (5, 6)
WAYS = [(stage, whole) for stage in Stage for whole in (True, False) if whole or stage is not Stage.MOVING]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "cancel_stream", lambda _: None)
    monkeypatch.setattr(dispatcher_link, "RECONNECT_INTERVAL_S", 0.02)
    monkeypatch.setattr(front, "DECISION_GRACE_S", 0.0)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    from actors.builtin_model import builtin_model_path

    return PromptEncoder.load(str(builtin_model_path()))


class _Rig:
    """A request on its way to a stage."""

    def __init__(self, stage: Stage, encoder: PromptEncoder) -> None:
        self.dispatcher = StagedDispatcher(stage)
        self._encoder = encoder

    async def start(self, options: RequestOptions, *, whole: bool) -> None:
        self.front = await Front.open(self.dispatcher, patient=False, load_encoder=lambda _: self._encoder)
        self.request = asyncio.get_running_loop().create_task(self._consume(options, whole=whole))

    async def _consume(self, options: RequestOptions, *, whole: bool) -> None:
        if whole:
            await self.front.generate(PROMPT, options)
            return
        async for _ in self.front.stream(PROMPT, options):
            pass

    async def until_there(self) -> None:
        while not self.dispatcher.reached:
            assert not self.request.done(), "it ended before it came there"
            await asyncio.sleep(0.005)

    async def until_nothing_is_left(self) -> None:
        self.dispatcher.come_back()
        while not self.front._places.listening:
            await asyncio.sleep(0.005)
        while self.dispatcher.known or self.dispatcher.worker.held:
            await asyncio.sleep(0.005)
        assert self.front._places._places == {}
        for link in self.front._links.values():
            assert link._outputs == {}

    async def close(self) -> None:
        self.request.cancel()
        await asyncio.wait([self.request])
        await self.front.close()


@pytest.fixture
async def rig(request: pytest.FixtureRequest, encoder: PromptEncoder) -> AsyncIterator[_Rig]:
    made = _Rig(request.param, encoder)
    async with asyncio.timeout(WAIT_S):
        yield made
        await made.close()


@pytest.mark.parametrize(("rig", "whole"), WAYS, indirect=["rig"])
async def test_a_request_can_be_given_up_at_every_stage(rig: _Rig, whole: bool) -> None:
    await rig.start(request_options(max_new_tokens=4), whole=whole)
    await rig.until_there()
    rig.request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rig.request
    await rig.until_nothing_is_left()


async def test_a_time_limit_holds_at_every_stage(encoder: PromptEncoder) -> None:
    """All at once, since time passes as it does."""

    async def wait_in(stage: Stage, *, whole: bool) -> None:
        rig = _Rig(stage, encoder)
        await rig.start(request_options(max_new_tokens=4, timeout_s=TIME_LIMIT_S), whole=whole)
        await rig.until_there()
        with pytest.raises(DeadlineExceeded):
            await rig.request
        await rig.until_nothing_is_left()
        await rig.close()

    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(wait_in(stage, whole=whole) for stage, whole in WAYS))
