"""One Ray Serve for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve_app.running import free_port


@pytest.fixture(scope="session")
def server(ray_cluster: None) -> Iterator[str]:
    """The URL of a Serve without applications."""
    from ray import serve

    port = free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "ERROR"},
    )
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()  # type: ignore[no-untyped-call]
