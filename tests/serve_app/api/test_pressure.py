"""What reaches a client when the pool is full, has no worker, or loses it in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import ray

from actors import Pool
from actors.config import SimulatedOptions
from actors.ray_session import NAMESPACE, worker_name
from serve_app.api.app import create_api
from serve_app.models.served import Models, ServedModel
from tests.serve_app.api.live import LiveServer, served

pytestmark = pytest.mark.ray

Eventually = Callable[[Callable[[], bool]], None]
STREAMS = 200
QUEUE_BOUND = 64


def is_ready(server: LiveServer) -> bool:
    return httpx.get(f"{server.url}/ready").status_code == 200


def pid_of_worker(pool_name: str) -> int:
    worker = ray.get_actor(worker_name(pool_name, "worker-0"), namespace=NAMESPACE)
    beat: Any = ray.get(worker.heartbeat.remote(), timeout=10)
    return int(beat.pid)


@pytest.fixture(scope="module")
def small(ray_cluster: None, eventually: Eventually) -> Iterator[LiveServer]:
    """A pool that runs 8 requests and queues 64."""
    with (
        Pool.start(
            name="small",
            engine="simulated",
            workers=1,
            max_batch_size=8,
            max_queued_requests=QUEUE_BOUND,
            simulated=SimulatedOptions(step_s=0.005),
        ),
        LiveServer(create_api(Models([served("small", "small")]))) as server,
    ):
        eventually(lambda: is_ready(server))
        yield server


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, **fields}


async def stream_once(client: httpx.AsyncClient) -> tuple[int, httpx.Headers, str]:
    async with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        text = "".join([piece async for piece in response.aiter_text()])
        return response.status_code, response.headers, text


async def test_every_stream_of_a_burst_ends_as_200_or_429(small: LiveServer) -> None:
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(base_url=small.url, timeout=60.0, limits=limits) as client:
        answers = await asyncio.gather(*(stream_once(client) for _ in range(STREAMS)))
    served_count = 0
    for status, headers, text in answers:
        if status == 200:
            served_count += 1
            assert text.endswith("data: [DONE]\n\n")
            assert text.count('"finish_reason": "length"') == 1
        else:
            assert status == 429
            assert 0 < int(headers["retry-after-ms"]) <= int(headers["retry-after"]) * 1000
            assert "x-should-retry" not in headers
            assert json.loads(text)["error"]["code"] == "server_overloaded"
    assert QUEUE_BOUND <= served_count < STREAMS


async def test_the_stock_client_comes_back_when_it_is_told_to(small: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=30) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**body(max_tokens=20)) for _ in range(STREAMS)))
    assert len({answer.id for answer in answers}) == STREAMS
    assert all(answer.choices[0].finish_reason == "length" for answer in answers)


async def test_a_refusal_is_raised_where_retries_are_off(small: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client:
        calls = (client.chat.completions.create(**body(stream=True)) for _ in range(STREAMS))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert refused
        for error in refused:
            assert isinstance(error, openai.RateLimitError)
            assert error.code == "server_overloaded"
        for result in results:
            if isinstance(result, openai.AsyncStream):
                await result.close()


def test_a_client_that_reads_late_gets_all_the_text_in_fewer_chunks(ray_cluster: None, eventually: Eventually) -> None:
    tokens = 8000
    with (
        Pool.start(name="fast", engine="simulated", workers=1, simulated=SimulatedOptions(step_s=0.0)) as pool,
        LiveServer(create_api(Models([served("fast", "fast")]))) as server,
    ):
        eventually(lambda: is_ready(server))
        content = json.dumps({"model": "fast", "prompt": [5], "max_tokens": tokens, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60.0)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(head.encode() + b"\r\n\r\n" + content)
            eventually(lambda: pool.statistics().workers[0].generated_tokens >= tokens)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        events = [line.removeprefix("data: ") for line in received.decode().split("\n") if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
        assert text.count(" w") == tokens
        assert len(events) < tokens * 0.9


def test_a_stream_whose_worker_dies_says_so_and_never_looks_finished(ray_cluster: None, eventually: Eventually) -> None:
    with (
        Pool.start(
            name="mortal", engine="simulated", workers=1, max_restarts=0, simulated=SimulatedOptions(step_s=0.02)
        ),
        LiveServer(create_api(Models([served("mortal", "mortal")]))) as server,
    ):
        eventually(lambda: is_ready(server))
        pid = pid_of_worker("mortal")
        request = {**body(stream=True, max_tokens=4000), "model": "mortal"}
        events: list[str] = []
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=request, timeout=60.0) as response:
            for line in response.iter_lines():
                if line:
                    events.append(line)
                if len(events) == 5:
                    os.kill(pid, signal.SIGKILL)
        assert response.status_code == 200
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "server_error"
        assert not any("[DONE]" in event or '"finish_reason": "' in event for event in events)

        eventually(lambda: not is_ready(server))
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**{**body(), "model": "mortal"})
        assert caught.value.status_code == 503


def test_a_worker_that_comes_back_makes_the_server_ready_again(ray_cluster: None, eventually: Eventually) -> None:
    with (
        Pool.start(name="phoenix", engine="simulated", workers=1, simulated=SimulatedOptions(step_s=0.005)),
        LiveServer(create_api(Models([served("phoenix", "phoenix")]))) as server,
    ):
        eventually(lambda: is_ready(server))
        os.kill(pid_of_worker("phoenix"), signal.SIGKILL)
        eventually(lambda: not is_ready(server))
        eventually(lambda: is_ready(server))
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={**body(), "model": "phoenix"}, timeout=60.0)
        assert answer.status_code == 200


class _Never:
    """A method of a dispatcher that never answers."""

    def remote(self, *_: Any) -> Any:
        return asyncio.get_running_loop().create_future()


class _LoadingDispatcher:
    hello = progress = _Never()


def test_a_model_that_is_being_loaded_is_not_ready_and_says_when_to_come_back() -> None:
    model = ServedModel("loading", _LoadingDispatcher(), created=1)
    with LiveServer(create_api(Models([model]))) as server:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "models": {"loading": False}}
        ready = httpx.get(f"{server.url}/ready")
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={**body(), "model": "loading"})
        tokens = httpx.post(f"{server.url}/tokenize", json={"prompt": "x"})
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["max_model_len"] is None
    for response in (ready, answer, tokens):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "no_healthy_worker"
        assert int(response.headers["retry-after"]) >= 1
