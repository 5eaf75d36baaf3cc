"""The application on a real Serve over real HTTP: answers, streams, and what becomes of clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from actors.engines.simulated import expected_tokens
from actors.scheduling.statistics import SchedulerStatistics
from tests.serve_app.running import MODEL, PROMPT, Running, ask, http_client, processes, read_stream, running, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

GONE_WITHIN_S = 1.0
REPLICA_GONE_WITHIN_S = 5.0
"""Ray has to notice the death first, which takes it longer on a busy machine."""
SLOW_PREFILL_TOKENS_PER_S = 200.0
LONG_PROMPT = list(range(10, 1510))
WARM_UP_ROUNDS = 3
"""In them the allocator takes what so many requests at a time need, less in each than in the one before."""
ROUNDS = 6
MAX_GROWTH_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def app(server: str) -> Iterator[Running]:
    simulated = {"step_s": 0.01, "prefill_tokens_per_s": SLOW_PREFILL_TOKENS_PER_S}
    with running("front", server, max_batch_size=1, max_queued_requests=64, simulated=simulated) as made:
        yield made


def test_it_is_alive_and_ready_and_names_its_model(app: Running) -> None:
    assert httpx.get(f"{app.url}/health").status_code == 200
    assert httpx.get(f"{app.url}/ready").status_code == 200
    assert [model["id"] for model in httpx.get(f"{app.url}/v1/models").json()["data"]] == [MODEL]


async def test_a_stream_is_the_whole_answer_in_pieces(app: Running) -> None:
    async with http_client() as http:
        events = await read_stream(http, app.url, ask(20, stream_options={"include_usage": True}))
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
        whole = (await http.post(f"{app.url}/v1/completions", json=ask(20, stream=False))).json()
        assert text == whole["choices"][0]["text"]
        assert text.split() == [f"w{token}" for token in expected_tokens(tuple(PROMPT), 20)]
        assert chunks[-1]["usage"]["completion_tokens"] == 20


async def test_the_first_token_does_not_wait_for_others(app: Running) -> None:
    async with http_client() as http, http.stream("POST", f"{app.url}/v1/completions", json=ask(2000)) as answer:
        async with asyncio.timeout(5.0):
            await anext(answer.aiter_lines())
    await until(lambda: is_idle(app), 5.0)


def test_request_ids_go_through(app: Running) -> None:
    answer = httpx.get(f"{app.url}/v1/models", headers={"X-Request-Id": "mine-7"})
    assert answer.headers.get_list("x-request-id") == ["mine-7"]
    assert len(httpx.get(f"{app.url}/v1/models").headers.get_list("x-request-id")) == 1


def test_metrics_tell_of_requests_and_the_pool(app: Running) -> None:
    httpx.post(f"{app.url}/v1/completions", json=ask(3, stream=False)).raise_for_status()
    lines = httpx.get(f"{app.url}/metrics").text.splitlines()
    assert any(line.startswith("exlpool_requests_total{") and 'outcome="ok"' in line for line in lines)
    assert [line for line in lines if 'what="workers_up"' in line and line.endswith(" 1.0")]


def test_a_large_body_is_refused(app: Running) -> None:
    answer = httpx.post(f"{app.url}/v1/completions", content=b"x" * (17 * 1024 * 1024), timeout=60.0)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def scheduler(app: Running) -> SchedulerStatistics:
    return app.statistics().scheduler


def is_idle(app: Running) -> bool:
    """Nothing runs, nothing waits, and every page is free."""
    state = scheduler(app)
    pages = all(worker.free_pages == worker.total_pages for worker in state.workers)
    return not state.running_requests and not sum(state.queued_requests.values()) and pages


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decode"])
async def test_a_client_that_goes_away_is_cancelled_everywhere(app: Running, phase: str, stream: bool) -> None:
    await until(lambda: is_idle(app), 10.0)
    async with http_client() as http, contextlib.AsyncExitStack() as others:
        if phase == "queued":
            blocking = http.stream("POST", f"{app.url}/v1/completions", json=ask(4000))
            lines = (await others.enter_async_context(blocking)).aiter_lines()
            await anext(lines)
        body = ask(4000, stream=stream, prompt=LONG_PROMPT if phase == "prefill" else None)
        asking = asyncio.create_task(http.post(f"{app.url}/v1/completions", json=body))
        if phase == "queued":
            await until(lambda: sum(scheduler(app).queued_requests.values()) == 1, 10.0)
        else:
            await until(lambda: scheduler(app).running_requests == 1, 10.0)
        if phase == "decode":
            tokens = app.statistics().workers[0].generated_tokens
            await until(lambda: app.statistics().workers[0].generated_tokens > tokens + 5, 10.0)
        if phase == "prefill":
            tokens = app.statistics().workers[0].generated_tokens
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        if phase == "queued":
            await until(lambda: not sum(scheduler(app).queued_requests.values()), GONE_WITHIN_S)
            assert scheduler(app).running_requests == 1, "the other one goes on"
        else:
            await until(lambda: is_idle(app), GONE_WITHIN_S)
        if phase == "prefill":
            assert app.statistics().workers[0].generated_tokens == tokens, "it was still in its prefill"
    await until(lambda: is_idle(app), GONE_WITHIN_S)


async def test_no_request_is_lost_against_a_bound(app: Running) -> None:
    """200 streams at once, one place to run and 64 to wait: each is answered in full, or told when to come back."""
    await until(lambda: is_idle(app), 10.0)
    outcomes: Counter[int] = Counter()

    async def one(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", f"{app.url}/v1/completions", json=ask(2)) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        outcomes[answer.status_code] += 1
        if answer.status_code == 200:
            assert lines[-1] == "data: [DONE]"
            assert '"length"' in lines[-2]
        else:
            assert int(answer.headers["retry-after"]) >= 1
            assert float(answer.headers["retry-after-ms"]) > 0
            assert json.loads("".join(lines))["error"]["code"] == "server_overloaded"

    (front,) = processes("ServeReplica:front:HttpFront")
    memory_bytes = []
    async with http_client() as http:
        for _ in range(ROUNDS):
            outcomes.clear()
            await asyncio.gather(*(one(http) for _ in range(200)))
            memory_bytes.append(front.memory_info().rss)
            assert set(outcomes) == {200, 429}
            assert outcomes.total() == 200
            assert outcomes[200] >= 65, "all places are used"
            await until(lambda: is_idle(app), 5.0)
    assert memory_bytes[-1] - memory_bytes[WARM_UP_ROUNDS - 1] < MAX_GROWTH_BYTES, memory_bytes


async def test_a_replica_that_is_killed_has_its_jobs_cancelled_and_another_one_answers(app: Running) -> None:
    (front,) = processes("ServeReplica:front:HttpFront")
    async with http_client() as http:
        async with http.stream("POST", f"{app.url}/v1/completions", json=ask(4000)) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            waiting = asyncio.create_task(http.post(f"{app.url}/v1/completions", json=ask(4000, stream=False)))
            await until(lambda: sum(scheduler(app).queued_requests.values()) == 1, 10.0)
            front.kill()
            await until(lambda: is_idle(app), REPLICA_GONE_WITHIN_S)
            with contextlib.suppress(httpx.HTTPError):  # how its proxy tells the client is Serve's own affair
                assert "[DONE]" not in "".join([line async for line in lines])
        with contextlib.suppress(httpx.HTTPError):
            assert (await waiting).status_code >= 500
        await asyncio.to_thread(app.wait_ready)
        assert (await http.post(f"{app.url}/v1/completions", json=ask(3, stream=False))).status_code == 200
