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

from tests.conformance.asking import SUM, SUM_ANSWER
from tests.conformance.server import MODEL, SHORT, Server

pytestmark = pytest.mark.ray

EXAMPLES = 90
"""Random requests per path, beside those that cover every bound of every field."""
MIN_REQUESTS = 2000
MIN_ANSWERS = 100
"""Requests to each way of generating that must have been answered, lest all of them break off early."""
HANG_S = 20.0
RUN_TIMEOUT_S = 170.0
CONFIG = """
[checks]
# What a schema cannot tell is refused with 400: a message without content, a sampler that the engine lacks.
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
    run = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
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
