"""Request ids, CORS, and a log that holds neither keys nor content."""

from __future__ import annotations

import logging

import pytest

from serve_app.edge.access_log import MAX_LOGGED_BYTES, logger
from serve_app.edge.keys import KeyEntry, KeyRing, new_key
from tests.serve_app.edge.apps import client, edge
from tests.serve_app.edge.test_auth import entry


async def test_a_decent_id_goes_through() -> None:
    async with client(edge()) as http:
        answer = await http.get("/", headers={"X-Request-Id": "run-7/part:3"})
        assert answer.headers["x-request-id"] == "run-7/part:3"
        assert answer.json()["request_id"] == answer.json()["header"] == "run-7/part:3"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "<script>", "\u00e9", "-x"])
async def test_an_indecent_one_is_replaced_everywhere(given: str) -> None:
    async with client(edge()) as http:
        answer = await http.get("/", headers={b"X-Request-Id": given.encode()})
        made = answer.headers["x-request-id"]
        assert made != given
        assert len(made) == 32
        assert answer.json()["header"] == made


async def test_refusals_have_ids_too() -> None:
    async with client(edge(max_headers=10)) as http:
        answer = await http.get("/", headers={f"x-{n}": "y" for n in range(20)})
        assert answer.status_code == 431
        assert answer.headers["x-request-id"]


async def test_the_log_has_neither_key_nor_content(caplog: pytest.LogCaptureFixture) -> None:
    key = new_key()
    keys: KeyRing = KeyRing([entry(key, "alice")])
    assert isinstance(keys.entries[0], KeyEntry)
    with caplog.at_level(logging.INFO, logger.name):
        async with client(edge(keys)) as http:
            await http.post("/v1/x?q=private", content=b"private", headers={"Authorization": f"Bearer {key}"})
            await http.post("/v1/x", content=b"private", headers={"Authorization": "Bearer private"})
            await http.get("/health")
    told = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert len(told) == 2
    assert "POST /v1/x 200" in told[0]
    assert "tenant='alice'" in told[0]
    assert "POST /v1/x 401" in told[1]
    assert not [line for line in told if "private" in line or key in line or "exl-" in line]


async def test_content_is_logged_when_asked_for_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger.name):
        async with client(edge(log_content=True)) as http:
            await http.post("/", content=b"a prompt" + b"." * 100_000)
    told = caplog.records[-1].getMessage()
    assert "a prompt" in told
    assert "tenant" in told
    assert len(told) < 3 * MAX_LOGGED_BYTES


async def test_a_line_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger.name):
        async with client(edge()) as http:
            await http.get("/%0aINFO%20forged")
    assert all("\n" not in record.getMessage() for record in caplog.records if record.name == logger.name)


async def test_cors_is_off_unless_configured() -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with client(edge()) as http:
        assert "access-control-allow-origin" not in (await http.get("/", headers=ask)).headers
        assert "access-control-allow-origin" not in (await http.options("/", headers=ask)).headers


async def test_cors_lets_the_configured_page_in_before_it_has_a_key() -> None:
    keys = KeyRing([entry(new_key(), "alice")])
    async with client(edge(keys, cors_origins=["https://page.example"])) as http:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = await http.options("/", headers={"Origin": "https://page.example", **ask})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        refused = await http.options("/", headers={"Origin": "https://evil.example", **ask})
        assert "access-control-allow-origin" not in refused.headers
        unknown = await http.get("/", headers={"Origin": "https://page.example"})
        assert unknown.status_code == 401
        assert unknown.headers["access-control-allow-origin"] == "https://page.example"
