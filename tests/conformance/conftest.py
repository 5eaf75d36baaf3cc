"""One really started server for all tests of this package, and stock clients that know nothing of it but its URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.conformance.server import Server, running

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # litellm would fetch a list of prices when it is imported

TIMEOUT_S = 60.0


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), uuid.uuid4().hex) as started:
        yield started


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The official client, as it comes, with its own check of what it is told switched on."""
    with openai.OpenAI(
        base_url=server.api, api_key=server.key, timeout=TIMEOUT_S, _strict_response_validation=True
    ) as made:
        yield made


@pytest.fixture(scope="package")
def lenient(server: Server) -> Iterator[openai.OpenAI]:
    """The official client without that check."""
    with openai.OpenAI(base_url=server.api, api_key=server.key, timeout=TIMEOUT_S) as made:
        yield made


@pytest.fixture(scope="package")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=TIMEOUT_S) as made:
        yield made
