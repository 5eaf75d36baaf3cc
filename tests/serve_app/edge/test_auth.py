"""Keys and rates at the door, and who is let in where there are no keys."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from serve_app.caller import ANYBODY
from serve_app.config import LiveSettings
from serve_app.edge.keys import KeyEntry, KeyRing, new_key
from tests.serve_app.edge.apps import client, edge
from tests.serve_app.edge.listening import listening

ALICE, BOB = new_key(), new_key()


def entry(key: str, tenant: str, **options: Any) -> KeyEntry:
    return KeyEntry(tenant=tenant, sha256=hashlib.sha256(key.encode()).hexdigest(), **options)


def ring(**options: Any) -> KeyRing:
    return KeyRing([entry(ALICE, "alice", max_priority="default", **options), entry(BOB, "bob")])


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ALICE}"},
        {"authorization": f"bearer {ALICE}"},
        {"Authorization": f"BEARER   {ALICE} "},
        {"x-api-key": ALICE},
        {"X-Api-Key": ALICE, "Authorization": "Basic Zm9v"},
    ],
)
async def test_a_key_tells_the_caller(headers: dict[str, str]) -> None:
    async with client(edge(ring())) as http:
        answer = await http.get("/", headers=headers)
        assert answer.status_code == 200
        assert (answer.json()["tenant"], answer.json()["max_priority"]) == ("alice", "default")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {ALICE}x"},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": ALICE},
        {"x-api-key": ""},
        {"Authorization": "Bearer wrong", "x-api-key": ALICE},
    ],
)
async def test_a_wrong_key_is_refused(headers: dict[str, str]) -> None:
    async with client(edge(ring())) as http:
        answer = await http.get("/", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-should-retry"] == "false"


async def test_health_needs_no_key() -> None:
    async with client(edge(ring())) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 200
        assert (await http.get("/health/")).status_code == 200
        assert (await http.get("/metrics")).status_code == 401


async def ask(http: httpx.AsyncClient, key: str) -> httpx.Response:
    return await http.get("/", headers={"Authorization": f"Bearer {key}"})


async def test_a_rate_that_is_used_up_says_when_to_come_back() -> None:
    async with client(edge(ring(requests_per_minute=2.0))) as http:
        assert [(await ask(http, ALICE)).status_code for _ in range(3)] == [200, 200, 429]
        refused = await ask(http, ALICE)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "requests_per_minute" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-limit-requests"] == "2"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-ratelimit-limit-tokens" not in refused.headers
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert 25_000 <= int(refused.headers["retry-after-ms"]) <= 30_000
        assert (await ask(http, BOB)).status_code == 200


async def test_new_keys_count_from_the_next_request_and_rates_go_on() -> None:
    app = edge(ring(requests_per_minute=1.0))
    carol = new_key()
    async with client(app) as http:
        assert (await ask(http, ALICE)).status_code == 200
        again = KeyRing([entry(ALICE, "alice", requests_per_minute=1.0), entry(carol, "carol")])
        app.configure(LiveSettings(), again)
        assert (await ask(http, ALICE)).status_code == 429
        assert (await ask(http, BOB)).status_code == 401
        assert (await ask(http, carol)).status_code == 200


async def test_without_keys_this_machine_is_anybody() -> None:
    async with client(edge(), address="::1", base_url="http://localhost:8000") as http:
        assert (await http.get("/")).json()["tenant"] == ANYBODY.tenant
    async with client(edge(), address="127.0.0.2", base_url="http://[::1]:8000") as http:
        assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("10.0.0.7", "http://127.0.0.1:8000"),
        ("::ffff:10.0.0.7", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://10.0.0.7:8000"),
        ("127.0.0.1", "http://evil.example:8000"),
    ],
)
async def test_without_keys_nobody_else_is_answered_unless_told(address: str, base_url: str) -> None:
    async with client(edge(), address=address, base_url=base_url) as http:
        answer = await http.get("/")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "remote_without_keys"
        assert (await http.get("/health")).status_code == 200
    async with client(edge(remote_without_keys=True), address=address, base_url=base_url) as http:
        assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize("name", ["0.0.0.0", "[::]", "127.0.0.1"])
async def test_without_keys_a_program_may_call_this_machine_any_address(name: str) -> None:
    async with listening() as listener, httpx.AsyncClient() as http:
        assert (await http.get(f"http://0.0.0.0:{listener.port}/")).status_code == 200
        for headers in ({}, {"Sec-Fetch-Site": "none"}):
            named = {"Host": f"{name}:{listener.port}", **headers}
            assert (await http.post(f"http://127.0.0.1:{listener.port}/", headers=named)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://0.0.0.0:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Origin": "http://evil.example"},
    ],
)
async def test_without_keys_a_page_may_not_call_it_so(headers: dict[str, str]) -> None:
    async with listening() as listener, httpx.AsyncClient(headers=headers) as http:
        assert (await http.post(f"http://0.0.0.0:{listener.port}/")).status_code == 403
        named = {"Host": f"[::]:{listener.port}"}
        assert (await http.post(f"http://127.0.0.1:{listener.port}/", headers=named)).status_code == 403
