"""The page and the document for people with a browser, who have no key before they see where to put it."""

from __future__ import annotations

from typing import Any

import httpx

from serve_app.api.app import create_api
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.keys import KeyRing
from serve_app.models.served import Models
from tests.serve_app.api.test_service import OpenModel, ScriptedFront
from tests.serve_app.edge.apps import client
from tests.serve_app.edge.test_auth import ALICE, entry

GETS = ["/v1/models", "/v1/models/m", "/models", "/health", "/ready", "/version", "/docs", "/openapi.json"]


def served(*, keyed: bool, docs: bool = True) -> Edge:
    app = Edge(create_api(Models([OpenModel(ScriptedFront({}))]), docs=docs))
    app.configure(LiveSettings(access_log=False), KeyRing([entry(ALICE, "alice")]) if keyed else None)
    return app


async def test_the_page_and_its_document_need_no_key() -> None:
    async with client(served(keyed=True)) as http:
        page = await http.get("/docs")
        assert page.status_code == 200
        assert "/openapi.json" in page.text
        document = (await http.get("/openapi.json/")).raise_for_status().json()
        assert (await http.get("/v1/models")).status_code == 401
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/models"]["get"]


async def test_without_keys_no_document_asks_for_one() -> None:
    app = served(keyed=False)
    async with client(app) as http:
        document = (await http.get("/openapi.json")).json()
        assert "security" not in document
        assert "securitySchemes" not in document["components"]
        app.configure(LiveSettings(access_log=False), KeyRing([entry(ALICE, "alice")]))
        assert "security" in (await http.get("/openapi.json")).json(), "keys may come while it runs"


async def test_the_page_finds_its_document_under_any_prefix() -> None:
    app = served(keyed=True)

    async def under_prefix(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/team", "path": f"/team{scope['path']}"}, receive, send)

    async with client(under_prefix) as http:
        assert "/team/openapi.json" in (await http.get("/docs")).text
        assert (await http.get("/openapi.json")).json()["servers"] == [{"url": "/team"}]


async def test_without_docs_there_is_neither() -> None:
    async with client(served(keyed=True, docs=False)) as http:
        for path in ("/docs", "/openapi.json"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_head_is_get_without_the_body() -> None:
    headers = {"authorization": f"Bearer {ALICE}", "x-request-id": "same"}
    async with client(served(keyed=True)) as http:
        for path in (*GETS, "/nothing", "/v1/models/unknown"):
            get, head = await http.get(path, headers=headers), await http.head(path, headers=headers)
            assert head.status_code == get.status_code, path
            assert head.headers == get.headers, path
            assert get.content, path
            assert not head.content, path


async def test_what_is_not_allowed_says_what_is() -> None:
    async with client(served(keyed=False)) as http:
        for method, path, allowed in (
            ("DELETE", "/v1/models", "GET, HEAD"),
            ("OPTIONS", "/health", "GET, HEAD"),
            ("HEAD", "/v1/completions", "POST"),
        ):
            answer: httpx.Response = await http.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
