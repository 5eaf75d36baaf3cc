"""Requests that schemathesis makes of the OpenAPI document: none fails, hangs, or is answered as is not documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from serve_app.api.schemas.chat import ChatCompletionChunk
from serve_app.api.schemas.completions import CompletionChunk
from tests.conformance.asking import SUM, SUM_ANSWER, TOOLS, WEATHER
from tests.conformance.server import MODEL, SHORT, Server

pytestmark = pytest.mark.ray

EXAMPLES = 90
"""Random requests per path, beside those that cover every bound of every field."""
MIN_REQUESTS = 2000
MIN_ANSWERS = 100
"""Requests to each way of generating that must have been answered, lest all of them break off early."""
HANG_S = 20.0
RUN_TIMEOUT_S = 300.0
CONFIG = """
[checks]
# What a schema cannot tell is refused with 400: a sampler that the engine lacks, a grammar that is none.
positive_data_acceptance.enabled = false
"""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with the one model that is cheap for all `model`s, and without limits on time: they end in 504."""
    for name in ("ChatCompletionRequest", "CompletionRequest"):
        properties = document["components"]["schemas"][name]["properties"]
        properties["model"] = {"enum": [SHORT]}
        del properties["timeout_s"]
    (named,) = document["paths"]["/v1/models/{name}"]["get"]["parameters"]
    named["schema"] = {"enum": [SHORT]}
    return document


CHAT_BODY = {"messages": WEATHER, "logprobs": True, "top_logprobs": 2, "n": 2}
STREAMS: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    ("/v1/chat/completions", CHAT_BODY, ChatCompletionChunk),
    ("/v1/chat/completions", {**CHAT_BODY, "tools": TOOLS, "tool_choice": "required"}, ChatCompletionChunk),
    ("/v1/completions", {"prompt": [[5], [6]], "logprobs": 2}, CompletionChunk),
    ("/v1/completions", {"prompt": "Once upon a time,", "echo": True}, CompletionChunk),
]


@pytest.mark.parametrize(("path", "fields", "chunk"), STREAMS)
def test_documented_events(http: httpx.Client, path: str, fields: dict[str, Any], chunk: type[BaseModel]) -> None:
    """Which schemathesis leaves alone: a schema inside of a text."""
    fixed = {"model": MODEL, "max_tokens": 30, "stream": True, "stream_options": {"include_usage": True}}
    response = http.post(path, json={**fixed, **fields})
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert len(events) > 3
    for event in events[:-1]:
        chunk.model_validate_json(event.removeprefix("data: "), strict=True)


@pytest.mark.timeout(2 * RUN_TIMEOUT_S)
def test_generated_requests(server: Server, http: httpx.Client, client: openai.OpenAI, tmp_path: Path) -> None:
    document, config, report = tmp_path / "openapi.json", tmp_path / "schemathesis.toml", tmp_path / "report.json"
    document.write_text(json.dumps(narrowed(http.get("/openapi.json").raise_for_status().json())))
    config.write_text(CONFIG)
    command: list[str | Path] = [Path(sys.executable).with_name("st"), "--config-file", config, "run", document]
    options = {
        "--url": server.url,
        "--header": f"Authorization: Bearer {server.key}",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": str(EXAMPLES),
        "--request-timeout": str(HANG_S),
        "--report": "json",
        "--report-json-path": str(report),
    }
    command += [part for option in options.items() for part in option]
    command += ["--generation-deterministic", "--continue-on-failure", "--no-color"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=RUN_TIMEOUT_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    told = json.loads(report.read_text())
    assert told["complete"]
    assert told["operations"]["tested"] == told["operations"]["total"] >= 9
    assert told["test_cases"]["generated"] >= MIN_REQUESTS
    assert told["test_cases"]["with_failures"] == told["test_cases"]["errored"] == 0
    for path in ("POST /v1/chat/completions", "POST /v1/completions"):
        rates = told["valid_rates"][path]
        assert sum(rate["accepted"] for rate in rates.values()) >= MIN_ANSWERS, rates
    answer = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    assert answer.choices[0].message.content == SUM_ANSWER
