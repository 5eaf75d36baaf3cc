"""What a request costs its key: its prompt and what was generated, once, whichever way it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from actors.errors import DeadlineExceeded, EngineFailure, NoHealthyWorker, Overloaded
from serve_app.api.app import create_api
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.auth import TokenCharges
from serve_app.edge.keys import KeyRing
from serve_app.edge.rate_book import Settle
from serve_app.edge.rate_ticket import OwnRates
from serve_app.models.served import Models
from tests.serve_app.api.test_service import OpenModel, ScriptedFront
from tests.serve_app.edge.test_auth import ALICE, entry
from tests.serve_app.fake_front import Script

PROMPT = [5] * 60
DEADLINE_S = 5.0


class RecordingRates(OwnRates):
    def __init__(self) -> None:
        super().__init__()
        self.charges: list[int] = []

    def tell(self, call: Settle) -> None:
        self.charges.append(call.tokens)
        super().tell(call)


class Charged:
    """An edge with one key, which writes down every charge."""

    def __init__(self, script: Script) -> None:
        self.front = ScriptedFront({5: script})
        rates = RecordingRates()
        self.charges = rates.charges
        self.app = Edge(create_api(Models([OpenModel(self.front)]), observer=TokenCharges()), rates=rates)
        self.app.configure(LiveSettings(), KeyRing([entry(ALICE, "alice", tokens_per_minute=1000.0)]))

    async def ask(self, leave: asyncio.Event, said: asyncio.Event, **fields: Any) -> None:
        """One request, whose client leaves with `leave`; `said` tells that a part of the answer was sent."""
        body = json.dumps({"model": "m", "prompt": PROMPT, **fields}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                said.set()

        headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + ALICE.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": headers}
        async with asyncio.timeout(DEADLINE_S):
            await self.app(scope, receive, send)

    async def until_running(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not self.front.running:
                await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token(stream: bool) -> None:
    charged, leave = Charged(Script(hang=True)), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(charged.ask(leave, asyncio.Event(), stream=stream))
        await charged.until_running()
        leave.set()
    assert charged.charges == [60]


async def test_a_client_that_leaves_in_the_middle() -> None:
    charged, leave, said = Charged(Script(["a", "b"], hang=True)), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(charged.ask(leave, said, stream=True))
        async with asyncio.timeout(DEADLINE_S):
            await said.wait()
        leave.set()
    assert charged.charges in ([61], [62])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_server_cancels(stream: bool) -> None:
    charged = Charged(Script(hang=True))
    task = asyncio.create_task(charged.ask(asyncio.Event(), asyncio.Event(), stream=stream))
    await charged.until_running()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert charged.charges == [60]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "charges"),
    [
        (Script(["a", "b"]), [62]),
        (Script(error=EngineFailure("broken")), [60]),
        (Script(error=DeadlineExceeded("late")), [60]),
        (Script(error=Overloaded("full", retry_after_s=1.0)), [0]),
        (Script(error=NoHealthyWorker("none")), [0]),
    ],
    ids=["whole", "failed", "late", "refused", "nobody"],
)
async def test_other_ends(script: Script, charges: list[int], stream: bool) -> None:
    charged = Charged(script)
    await charged.ask(asyncio.Event(), asyncio.Event(), stream=stream)
    assert charged.charges == charges


async def test_a_failure_in_a_stream() -> None:
    charged = Charged(Script(["a", "b"], error=EngineFailure("broken")))
    await charged.ask(asyncio.Event(), asyncio.Event(), stream=True)
    assert charged.charges == [62]


async def test_each_prompt_counts_once_for_all_its_choices() -> None:
    charged, leave = Charged(Script(hang=True)), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(charged.ask(leave, asyncio.Event(), n=3, stream=True))
        await charged.until_running()
        leave.set()
    assert charged.charges == [60]
