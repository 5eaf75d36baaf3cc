"""The front's own listener: it answers as Serve's proxy does, and an update cuts nothing off."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from actors.errors import ConfigurationError
from serve_app.config import serve_config
from serve_app.edge.keys import new_entry, new_key
from serve_app.edge.keys_changes import add_key
from tests.serve_app.running import Running, ask, free_port, http_client, read_stream, running, until

REFUSED = re.compile(r'exlpool_requests_total{.*"rate_limit_exceeded".*replica="(.*)"}')
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def app(server: str, port: int) -> Iterator[Running]:
    with running("listener", server, **settings(port)) as made:
        yield made


def settings(port: int) -> dict[str, object]:
    return {"listen": {"port": port}, "fronts": {"max_replicas": 1}}


async def test_both_ways_in_give_the_same_answer(app: Running, port: int) -> None:
    async with http_client() as http:
        texts = []
        for url in (app.url, f"http://127.0.0.1:{port}"):
            events = [json.loads(event) for event in (await read_stream(http, url, ask(10)))[:-1]]
            texts.append("".join(choice["text"] for event in events for choice in event["choices"]))
        assert texts[0] == texts[1] != ""


def test_request_ids_go_through(app: Running, port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/models"
    assert httpx.get(url, headers={"X-Request-Id": "mine-7"}).headers.get_list("x-request-id") == ["mine-7"]
    made = httpx.get(url, headers={"X-Request-Id": "<no>"}).headers.get_list("x-request-id")
    assert len(made) == 1
    assert made != ["<no>"]


async def test_a_client_that_goes_away_is_cancelled(app: Running, port: int) -> None:
    async with (
        http_client() as http,
        http.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=ask(4000)) as r,
    ):
        lines = r.aiter_lines()
        await anext(lines)
        assert app.statistics().scheduler.running_requests == 1
    await until(lambda: app.statistics().scheduler.running_requests == 0, 1.0)


async def test_an_update_lets_running_streams_end(app: Running, port: int) -> None:
    async with http_client() as http:
        stream = asyncio.create_task(read_stream(http, f"http://127.0.0.1:{port}", ask(600)))
        await until(lambda: app.statistics().scheduler.running_requests == 1, 10.0)
        await asyncio.to_thread(app.deploy, max_choices=1, **settings(port))
        events = await stream
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        refused = await http.post(f"http://127.0.0.1:{port}/v1/completions", json=ask(1, stream=False, n=2))
        assert refused.status_code == 400, "the new replica listens"


async def test_a_rate_holds_over_all_replicas(app: Running, port: int, tmp_path: Path) -> None:
    """60 requests at once for 20 tokens each, with a key for 120 a minute, by two replicas: 6 are let in."""
    limited, free, keys = new_key(), new_key(), tmp_path / "keys.yaml"
    add_key(keys, new_entry(limited, "limited", tokens_per_minute=120))
    add_key(keys, new_entry(free, "free"))
    two = {**settings(port), "fronts": {"min_replicas": 2, "max_replicas": 2}}
    await asyncio.to_thread(app.deploy, keys_file=str(keys), **two)
    url, body = f"http://127.0.0.1:{port}", ask(16, stream=False)
    async with http_client(connections=100) as http:
        burst = (
            http.post(f"{url}/v1/completions", json=body, headers={"authorization": f"Bearer {limited}"})
            for _ in range(60)
        )
        statuses = [answer.status_code for answer in await asyncio.gather(*burst)]
        assert (statuses.count(200), statuses.count(429)) == (6, 54)
        own = {"authorization": f"Bearer {free}", "connection": "close"}  # another connection, perhaps another replica
        told = [(await http.get(f"{url}/metrics", headers=own)).text for _ in range(20)]
    refusing = {match for text in told for match in REFUSED.findall(text)}
    assert len(refusing) == 2, "both let in and refuse"


def test_it_needs_a_fixed_number_of_replicas() -> None:
    with pytest.raises(ConfigurationError, match="min_replicas"):
        serve_config(listen={"port": 8000}, fronts={"min_replicas": 1, "max_replicas": 2})
    with pytest.raises(ConfigurationError, match="host"):
        serve_config(listen={"host": "somewhere"}, fronts={"max_replicas": 1})
