"""Grammars that take for ever: a refusal within the request's time, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import DeadlineExceeded
from actors.request.grammar import checker
from serve_app.api.app import create_api
from serve_app.api.deadline import Deadline
from serve_app.caller import BEGAN_AT_S
from serve_app.models.served import Models
from tests.bombs import ENDLESS_LARK, ENDLESS_SCHEMA, ENDLESS_TOOL
from tests.serve_app.api.test_service import OpenModel, ScriptedFront, error_code, post
from tests.serve_app.fake_front import Script

DEADLINE_S = 60.0
MESSAGES = [{"role": "user", "content": "Hi"}]
ENDLESS_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": json.loads(ENDLESS_SCHEMA)}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": ENDLESS_TOOL}}


@pytest_asyncio.fixture
async def model() -> AsyncIterator[OpenModel]:
    model = OpenModel(ScriptedFront({5: Script(["a"])}))
    yield model
    model.grammars.close()


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat/completions", {"messages": MESSAGES, "response_format": ENDLESS_FORMAT}, "response_format"),
        ("chat/completions", {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}, "tools"),
        ("completions", {"prompt": [5], "guided_grammar": ENDLESS_LARK}, "guided_grammar"),
    ],
)
async def test_what_takes_for_ever_is_a_400_that_names_the_field(
    model: OpenModel, monkeypatch: pytest.MonkeyPatch, endpoint: str, fields: dict[str, Any], param: str
) -> None:
    monkeypatch.setattr(checker, "COMPILE_CPU_S", 0.2)
    async with asyncio.timeout(DEADLINE_S):
        response = await post(create_api(Models([model])), endpoint, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert "to compile: make it smaller" in response.json()["error"]["message"]


async def test_the_time_limit_covers_the_grammar(model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "QUICK_CPU_S", 3600.0)
    app = create_api(Models([model]))
    async with asyncio.timeout(DEADLINE_S):
        response = await post(app, prompt=[5], guided_json=json.loads(ENDLESS_SCHEMA), timeout_s=0.2)
        assert (response.status_code, error_code(response)) == (504, "deadline_exceeded")
        assert (await post(app, prompt=[5], guided_regex="a+")).status_code == 200


async def test_the_time_limit_counts_from_the_first_byte() -> None:
    class Request:
        def __init__(self, spent_s: float) -> None:
            self.scope = {BEGAN_AT_S: time.monotonic() - spent_s}

    late: Any = Request(5.0)
    with pytest.raises(DeadlineExceeded, match=r"Not finished within 5 s"):
        await Deadline(late, 5.0).within(asyncio.sleep(0.0))
    assert await Deadline(late, None).within(asyncio.sleep(0.0, "done")) == "done"
