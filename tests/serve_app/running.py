"""The HTTP front on a real Ray Serve, with simulated engines behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import psutil
import ray
from ray import serve

from actors.dispatcher.statistics import PoolStatistics
from actors.ray_session import NAMESPACE
from serve_app import build_app
from serve_app.config import serve_config
from serve_app.serving.pool_names import holder_name, holders_of

START_S = 120.0
STEP_S = 0.01
MODEL = "sim"
SETTINGS: dict[str, Any] = {
    "name": MODEL,
    "engine": "simulated",
    "workers": 1,
    "cpus_per_worker": 0.1,
    "simulated": {"step_s": STEP_S},
}
PROMPT = [7, 8, 9, 10]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """An application that runs under a prefix of its own."""

    def __init__(self, name: str, server: str) -> None:
        self.name = name
        self.url = f"{server}/{name}"

    def deploy(self, **settings: Any) -> None:
        """Start it, or bring it to other settings; returns when it runs."""
        self.config = serve_config(**(settings if "models" in settings else {**SETTINGS, **settings}))
        serve.run(
            build_app(self.config), name=self.name, route_prefix=f"/{self.name}", logging_config={"log_level": "ERROR"}
        )

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        while httpx.get(f"{self.url}/ready").status_code != 200:
            assert time.monotonic() < deadline_s, "not ready in time"
            time.sleep(0.05)  # a poll, bounded by the deadline above

    def holders(self, model: str = MODEL) -> list[str]:
        """The names of the actors that hold pools of a model."""
        return [name for name, held in holders_of(self.name).items() if held == model]

    def holder(self, model: str = MODEL) -> Any:
        """The one that holds the pool with the settings that were deployed last.

        :raises ValueError: there is none.
        """
        (config,) = (one for one in self.config.models if one.name == model)
        return ray.get_actor(holder_name(self.name, config), namespace=NAMESPACE)

    def dispatcher(self, model: str = MODEL) -> Any:
        return ray.get(self.holder(model).pool.remote(), timeout=START_S).dispatcher

    def statistics(self, model: str = MODEL) -> PoolStatistics:
        snapshot: PoolStatistics = ray.get(self.dispatcher(model).statistics.remote(), timeout=START_S)
        return snapshot

    def worker_ids(self) -> set[str | None]:
        return {state.worker_id for state in self.statistics().workers}


@contextlib.contextmanager
def running(name: str, server: str, **settings: Any) -> Iterator[Running]:
    application = Running(name, server)
    application.deploy(**settings)
    try:
        application.wait_ready()
        yield application
    finally:
        serve.delete(name)


def ask(tokens: int, *, stream: bool = True, prompt: Any = None, **options: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "prompt": prompt or PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        **options,
    }


def processes(*parts: str) -> list[psutil.Process]:
    """The cluster's processes whose name holds every part."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if command.startswith("ray::") and all(part in command for part in parts):
                found.append(process)
    return found


async def read_stream(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> list[str]:
    """The data of a stream's events, to its end; raises for any status but 200."""
    async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        return [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]


async def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition off the event loop; returns after how long it held."""
    started_s = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - started_s < timeout_s, f"not within {timeout_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - started_s


@contextlib.asynccontextmanager
async def http_client(connections: int = 300) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(timeout=60.0, limits=limits) as http:
        yield http
