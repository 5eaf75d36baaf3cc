"""What the clients of a key with rates see: over all of a burst no more than the rate, and how it stands with it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from actors.errors import EngineFailure, Overloaded
from serve_app.api.app import create_api
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.auth import TokenCharges
from serve_app.edge.keys import KeyRing
from serve_app.edge.rate_book import Enter, KeyRates, Reserve, Verdict
from serve_app.edge.rate_ticket import OwnRates, duration
from serve_app.models.served import Models
from tests.serve_app.api.test_service import OpenModel, ScriptedFront
from tests.serve_app.edge.apps import client
from tests.serve_app.edge.test_auth import ALICE, BOB, entry
from tests.serve_app.fake_front import DEFAULT_MAX_NEW_TOKENS, Script

LIMIT = 120
PROMPT = [5] * 4
DEADLINE_S = 5.0


def limited(script: Script, rates: OwnRates | None = None, **options: Any) -> Edge:
    """An edge where Alice may use 120 tokens a minute, and Bob what he likes."""
    app = Edge(create_api(Models([OpenModel(ScriptedFront({5: script}))]), observer=TokenCharges()), rates=rates)
    ring = KeyRing([entry(ALICE, "alice", **{"tokens_per_minute": LIMIT, **options}), entry(BOB, "bob")])
    app.configure(LiveSettings(access_log=False), ring)
    return app


async def ask(http: httpx.AsyncClient, key: str = ALICE, **fields: Any) -> httpx.Response:
    body = {"model": "m", "prompt": PROMPT, **fields}
    return await http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})


def tokens_left(answer: httpx.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_burst_gets_what_the_rate_allows_and_no_lock_out(stream: bool) -> None:
    """60 at once, 20 tokens each: six are let in, and none of them takes anything of the next minute."""
    async with client(limited(Script(["a"] * 16))) as http:
        answers = await asyncio.gather(*(ask(http, max_tokens=16, stream=stream) for _ in range(60)))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert (len(served), len(refused)) == (6, 54)
        for answer in refused:
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert "tokens_per_minute" in answer.json()["error"]["message"]
            assert 0 < int(answer.headers["retry-after-ms"]) <= 10_000
        assert (await ask(http, BOB, max_tokens=16)).status_code == 200


async def test_what_is_not_used_is_given_back_at_once() -> None:
    async with client(limited(Script(["a"]))) as http:
        for number in range(5):
            answer = await ask(http, max_tokens=90)
            assert (answer.status_code, tokens_left(answer)) == (200, LIMIT - 94 - 5 * number)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=1.0), EngineFailure("broken")])
async def test_a_request_that_fails_gives_back(error: Exception, stream: bool) -> None:
    async with client(limited(Script(error=error))) as http:  # type: ignore[arg-type]
        for _ in range(5):
            assert (await ask(http, max_tokens=100, stream=stream)).status_code == error.status  # type: ignore[attr-defined]


async def test_every_completion_and_every_prompt_counts() -> None:
    async with client(limited(Script(["a"] * 10))) as http:
        answer = await ask(http, max_tokens=10, n=3, prompt=[PROMPT, PROMPT])
        assert (answer.status_code, tokens_left(answer)) == (200, LIMIT - 2 * 4 - 6 * 10)
        assert (await ask(http, max_tokens=10, n=5)).status_code == 429
        assert (await ask(http, max_tokens=10, n=4)).status_code == 200


async def test_a_request_larger_than_a_minute_is_told_so() -> None:
    async with client(limited(Script(["a"]))) as http:
        answer = await ask(http, max_tokens=LIMIT - 3)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("request_exceeds_rate", "max_tokens")
        assert "max_tokens" in error["message"]
        assert str(LIMIT) in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        assert (await ask(http, max_tokens=LIMIT - 4)).status_code == 200


async def test_without_max_tokens_the_default_of_the_model_is_reserved() -> None:
    async with client(limited(Script(["a"], hang=True))) as http:
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(http, stream=True)) for _ in range(5)]
            done, running = await asyncio.wait(asking, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 3:
                more, running = await asyncio.wait(running, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
                assert more
                done |= more
            for task in running:
                task.cancel()
        assert LIMIT // (len(PROMPT) + DEFAULT_MAX_NEW_TOKENS) == len(running) == 2
        assert {task.result().status_code for task in done} == {429}


async def test_every_answer_tells_how_it_stands() -> None:
    async with client(limited(Script(["a"] * 16), requests_per_minute=3.0)) as http:
        first = await ask(http, max_tokens=16, stream=True)
        told = {name.removeprefix("x-ratelimit-"): first.headers[name] for name in first.headers if "ratelimit" in name}
        assert told == {
            "limit-requests": "3",
            "remaining-requests": "2",
            "reset-requests": told["reset-requests"],
            "limit-tokens": "120",
            "remaining-tokens": "100",
            "reset-tokens": told["reset-tokens"],
        }
        assert told["reset-requests"].endswith("s")
        models = await http.get("/v1/models", headers={"authorization": f"Bearer {ALICE}"})
        assert models.headers["x-ratelimit-remaining-requests"] == "1"
        assert not [name for name in (await ask(http, BOB, max_tokens=1)).headers if "ratelimit" in name]


class SlowRates(OwnRates):
    """Grants, but the answer is under way for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved = asyncio.Event()

    async def ask(self, call: Enter | Reserve) -> Verdict:
        verdict = await super().ask(call)
        if isinstance(call, Reserve):
            self.reserved.set()
            await asyncio.Event().wait()
        return verdict


async def test_a_request_that_is_cancelled_while_it_asks_gives_back() -> None:
    rates = SlowRates()
    async with client(limited(Script(["a"]), rates)) as http:
        asking = asyncio.create_task(ask(http, max_tokens=100))
        async with asyncio.timeout(DEADLINE_S):
            await rates.reserved.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    left = (await rates.ask(Enter(KeyRates(entry(ALICE, "alice").sha256, None, LIMIT)))).tokens
    assert left is not None
    assert left.remaining == LIMIT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (360.0, "6m0s"),
        (3723.5, "1h2m3.5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
