"""The built-in model on two CPU workers behind a real server, for all API tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from actors import Pool
from serve_app.api.app import create_api
from serve_app.models.served import Models
from tests.serve_app.api.live import LiveServer, served
from tests.serve_app.api.recording import RecordingObserver

MODEL = "tiny"
OTHER_MODEL = "team/other"


@pytest.fixture(scope="package")
def pool(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(name="api", engine="cpu", workers=2, wait_for="all", cache_tokens=32768, max_batch_size=16) as made:
        yield made


@pytest.fixture(scope="package")
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture(scope="package")
def server(pool: Pool, observer: RecordingObserver, eventually: Callable[[Callable[[], bool]], None]) -> Iterator[str]:
    """The URL of a server with two names for the pool, ready to answer."""
    app = create_api(Models([served(MODEL, "api"), served(OTHER_MODEL, "api")]), observer=observer)
    with LiveServer(app) as live:
        eventually(lambda: httpx.get(f"{live.url}/ready").status_code == 200)
        yield live.url


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    """The official client, as it comes."""
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=60.0) as made:
        yield made


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60.0) as made:
        yield made
